// What the words and operators answer, and functions as policies.
#include <gtest/gtest.h>

#include <functional>
#include <remat/policy/policy.hpp>
#include <sstream>
#include <thread>
#include <type_traits>

#include "policy/sample_slots.hpp"

namespace {

using remat::Policy;
using remat::SlotInfo;
using remat::Verdict;
namespace policy = remat::policy;

constexpr Verdict R = Verdict::recompute, O = Verdict::offload, S = Verdict::save;
constexpr Verdict all[] = {R, O, S};

Policy always(Verdict v) {
  return [v](const SlotInfo&) { return v; };
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const remat::Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Verdict, TruthTables) {
  const Verdict either[3][3] = {{R, O, S}, {O, O, S}, {S, S, S}};
  const Verdict both[3][3] = {{R, R, R}, {R, O, O}, {R, O, S}};
  const Verdict negation[3] = {S, R, R};
  const Verdict offloaded[3] = {R, O, O};
  const SlotInfo slot;
  for (int a = 0; a < 3; ++a) {
    EXPECT_EQ(!all[a], negation[a]);
    EXPECT_EQ((!always(all[a]))(slot), negation[a]);
    EXPECT_EQ(policy::offload(always(all[a]))(slot), offloaded[a]);
    for (int b = 0; b < 3; ++b) {
      EXPECT_EQ(all[a] | all[b], either[a][b]);
      EXPECT_EQ(all[a] & all[b], both[a][b]);
      EXPECT_EQ((always(all[a]) | always(all[b]))(slot), either[a][b]) << all[a] << " | " << all[b];
      EXPECT_EQ((always(all[a]) & always(all[b]))(slot), both[a][b]) << all[a] << " & " << all[b];
    }
  }
}

TEST(Verdict, Prints) {
  std::ostringstream text;
  text << R << ' ' << O << ' ' << S;
  EXPECT_EQ(text.str(), "recompute offload save");
}

TEST(Words, AnswerAsTheyRead) {
  const std::vector<std::string> two = {"ffn1", "mine"};
  const SlotInfo plain{.op = "sin"}, dot{.op = "linear", .dot = true}, labelled{.op = "gelu", .labels = two};
  const SlotInfo attention{.op = "attention", .dot = true, .batched = true};
  const auto answers = [&](const Policy& p) { return std::vector{p(plain), p(dot), p(attention), p(labelled)}; };
  using V = std::vector<Verdict>;
  EXPECT_EQ(answers(policy::everything), (V{S, S, S, S}));
  EXPECT_EQ(answers(policy::nothing), (V{R, R, R, R}));
  EXPECT_EQ(answers(policy::dots), (V{R, S, S, R}));
  EXPECT_EQ(answers(policy::batched), (V{R, R, S, R}));
  EXPECT_EQ(answers(policy::dots & !policy::batched), (V{R, S, R, R}));
  EXPECT_EQ(answers(policy::names("ffn1")), (V{R, R, R, S}));
  EXPECT_EQ(answers(policy::names("mine", "x")), (V{R, R, R, S}));
  EXPECT_EQ(answers(policy::names("ffn")), (V{R, R, R, R}));
  EXPECT_EQ(answers(policy::names()), (V{R, R, R, R}));
  EXPECT_EQ(answers(policy::names("*")), (V{R, R, R, S}));
  EXPECT_EQ(answers(policy::any_name), (V{R, R, R, S}));
  EXPECT_EQ(answers(policy::ops("sin", "attention")), (V{S, R, S, R}));
  EXPECT_EQ(answers(policy::names("ffn1") | policy::offload(policy::dots)), (V{R, O, O, S}));
}

TEST(Words, TakeListsOfAnyStrings) {
  const std::string text = "a";
  const std::vector<std::string> list = {"a", "b"};
  EXPECT_EQ(policy::names(text, std::string_view("b")), policy::names("a", "b"));
  EXPECT_EQ(policy::names(list), policy::names("a", "b"));
  EXPECT_EQ(policy::names({"a", "b"}), policy::names("a", "b"));
  EXPECT_EQ(policy::ops(list), policy::ops("a", "b"));
  EXPECT_EQ(error_of([] { policy::names(""); }), "policy: names(...) was given an empty name");
  EXPECT_EQ(error_of([] { policy::ops("a\n"); }), "policy: ops(...) was given a name with a control character");
}

TEST(Policy, IsEverythingByDefault) {
  EXPECT_EQ(Policy(), policy::everything);
  EXPECT_EQ(Policy()(SlotInfo{}), S);
}

TEST(Policy, EqualityIsOfTheExpression) {
  EXPECT_EQ(policy::dots | policy::names("a"), policy::dots | policy::names("a"));
  EXPECT_FALSE((policy::dots | policy::names("a")) == (policy::names("a") | policy::dots));
  EXPECT_FALSE(policy::names("a") == policy::ops("a"));
  EXPECT_FALSE(policy::names("a") == policy::names("a", "b"));
  EXPECT_FALSE(always(S) == always(S));
  const Policy one = always(S), same = one;
  EXPECT_EQ(one, same);
}

TEST(Policy, OwnsItsParts) {
  Policy p;
  {
    const Policy inner = policy::names(std::string(100, 'x'));
    Policy moved = inner | policy::dots;
    p = std::move(moved);
    EXPECT_EQ(moved, p);  // NOLINT: a moved-from policy stays whole
  }
  EXPECT_EQ(remat::policy::to_string(p), "names(" + std::string(100, 'x') + ") | dots");
}

bool saves_gelu(const SlotInfo& slot) { return slot.op == "gelu"; }

TEST(Functions, OfEitherAnswerArePolicies) {
  const Policy small = [](const SlotInfo& slot) { return slot.bytes <= 100; };
  const Policy verdict = [](const SlotInfo& slot) { return slot.bytes > 100 ? O : R; };
  const Policy pointer = saves_gelu;
  EXPECT_EQ(small(sample::plain("sin")), S);
  EXPECT_EQ(small(SlotInfo{.bytes = 101}), R);
  EXPECT_EQ(verdict(SlotInfo{.bytes = 101}), O);
  EXPECT_EQ(pointer(sample::plain("gelu")), S);
  EXPECT_EQ((policy::dots | small)(sample::plain("sin")), S);
  EXPECT_EQ((policy::dots | [](const SlotInfo&) { return true; })(sample::plain("sin")), S);
  EXPECT_EQ(remat::policy::to_string(policy::dots & !small), "dots & !<function>");
}

TEST(Functions, ThatAreEmptyAreRefused) {
  const std::function<bool(const SlotInfo&)> empty;
  bool (*null)(const SlotInfo&) = nullptr;
  EXPECT_EQ(error_of([&] { Policy{empty}; }), "policy: the function given as a policy is empty");
  EXPECT_EQ(error_of([&] { Policy{null}; }), "policy: the function given as a policy is empty");
}

TEST(Functions, OfAnotherAnswerDoNotCompile) {
  const auto number = [](const SlotInfo&) { return 1; };
  const auto wrong = [](int) { return true; };
  static_assert(!std::is_convertible_v<decltype(number), Policy>);
  static_assert(!std::is_convertible_v<decltype(wrong), Policy>);
  static_assert(!std::is_convertible_v<const char*, Policy>);
}

Policy not_dots(int times) {
  Policy p = policy::dots;
  for (int i = 0; i < times; ++i) p = !p;
  return p;
}

TEST(Policy, RefusesToGrowWithoutBound) {
  EXPECT_EQ(not_dots(499).node().parts, 500);
  EXPECT_EQ(error_of([] { not_dots(500); }),
            "policy: an expression of 501 parts, at most 500 are allowed; write many names as one names(...)");
  EXPECT_EQ(error_of([] {
              Policy p = policy::names("a");
              for (int i = 0; i < 64; ++i) p = p | p;  // 2^64 leaves, if nobody counted
            }),
            "policy: an expression of 511 parts, at most 500 are allowed; write many names as one names(...)");
}

TEST(Policy, IsAskedFromManyThreads) {
  const Policy p = policy::names("ffn1") | policy::offload(policy::dots);
  std::vector<std::thread> threads;
  std::vector<int> saved(4);
  const auto slots = sample::layer();
  for (std::size_t t = 0; t < saved.size(); ++t)
    threads.emplace_back([&, t] {
      for (const SlotInfo& slot : slots) saved[t] += Policy(p)(slot) == S;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(saved, std::vector<int>(4, 2));
}

}  // namespace
