// Policies print in their language and are read back; what cannot be read is refused in one sentence.
#include <gtest/gtest.h>

#include <remat/core/random.hpp>
#include <remat/policy/parse.hpp>

#include "policy/sample_slots.hpp"

namespace {

using namespace remat::policy;

std::string error_of(const std::string& text) {
  try {
    return "no error, read as " + to_string(parse(text));
  } catch (const remat::Error& error) {
    return error.what();
  }
}

void expect_same(const Policy& a, const Policy& b) {
  EXPECT_EQ(a, b);
  for (const SlotInfo& slot : sample::layer()) EXPECT_EQ(a(slot), b(slot)) << a << ", slot " << slot.index;
}

TEST(Language, ReadsTheExamples) {
  expect_same(parse("dots & !batched"), dots & !batched);
  expect_same(parse("names(ffn1, out_proj) | offload(dots)"), names("ffn1", "out_proj") | offload(dots));
  expect_same(parse("names(*)"), any_name);
  expect_same(parse("any_name"), names("*"));
  expect_same(parse("ops(sin)"), ops("sin"));
  expect_same(parse("names()"), names());
  expect_same(parse("names(\"two words\", \"quote\\\"and\\\\end\")"), names("two words", "quote\"and\\end"));
  expect_same(parse("names(a/b.c-1, +, \"+\")"), names("a/b.c-1", "+", "+"));
  expect_same(parse("names(dots)"), names("dots"));
  expect_same(parse("save_out_proj | offload(save_context)"), save_out_proj | offload(save_context));
}

TEST(Language, ReadsThePhraseBookFunctions) {
  expect_same(parse("save_only_these_names(ffn1, ffn2)"), save_only_these_names("ffn1", "ffn2"));
  expect_same(parse("save_any_names_but_these(ffn1)"), save_any_names_but_these("ffn1"));
  expect_same(parse("save_anything_except_these_names(ffn1)"), save_anything_except_these_names("ffn1"));
  expect_same(parse("save_from_both_policies(dots | batched, names(a))"),
              save_from_both_policies(dots | batched, names("a")));
  expect_same(parse("save_and_offload_only_these_names([a, b], [c])"),
              save_and_offload_only_these_names({"a", "b"}, {"c"}));
}

TEST(Language, AndBindsTighterThanOr) {
  expect_same(parse("nothing & nothing | everything"), (nothing & nothing) | everything);
  expect_same(parse("everything | nothing & nothing"), everything | (nothing & nothing));
  expect_same(parse("!nothing | everything"), (!nothing) | everything);
  expect_same(parse("!dots & batched"), (!dots) & batched);
  expect_same(parse("!(dots & batched)"), !(dots & batched));
  expect_same(parse("(dots | batched) & everything"), (dots | batched) & everything);
  expect_same(parse("dots | batched | everything"), (dots | batched) | everything);
  expect_same(parse("dots | (batched | everything)"), dots | (batched | everything));
  expect_same(parse("!!dots"), !!dots);
}

TEST(Language, SpaceAndParenthesesAreFree) {
  for (const char* text : {"dots&!batched", "  dots\t&\n! batched ", "((dots))&(!((batched)))", "(dots & !batched)"})
    expect_same(parse(text), dots & !batched);
  expect_same(parse("names ( a , b )"), names("a", "b"));
}

TEST(Language, PrintsFewParentheses) {
  const auto prints = [](const Policy& p) { return to_string(p); };
  EXPECT_EQ(prints(dots & !batched), "dots & !batched");
  EXPECT_EQ(prints((dots & batched) | everything), "dots & batched | everything");
  EXPECT_EQ(prints(dots & (batched | everything)), "dots & (batched | everything)");
  EXPECT_EQ(prints(!(dots | batched)), "!(dots | batched)");
  EXPECT_EQ(prints(!!dots), "!!dots");
  EXPECT_EQ(prints(dots | (batched | nothing)), "dots | (batched | nothing)");
  EXPECT_EQ(prints(offload(dots | batched)), "offload(dots | batched)");
  EXPECT_EQ(prints(names("a", "two words", "q\"\\")), "names(a, \"two words\", \"q\\\"\\\\\")");
  EXPECT_EQ(prints(names() | any_name), "names() | names(*)");
  EXPECT_EQ(prints(save_out_proj | save_only_these_names("ffn1")), "save_out_proj | names(ffn1)");
  EXPECT_EQ(prints(Policy()), "everything");
}

TEST(Language, RoundTripsThePhraseBook) {
  for (const Phrase& phrase : phrase_book()) {
    EXPECT_EQ(to_string(phrase.policy), phrase.name);
    expect_same(parse(phrase.name), phrase.policy);
    expect_same(parse(to_string(phrase.expression)), phrase.expression);
  }
}

Policy random_policy(std::uint64_t& word, int depth) {
  const auto draw = [&](std::uint32_t below) { return remat::RandomStream{.seed = 7}.word(word++) % below; };
  static const char* const labels[] = {"ffn1", "out_proj", "context", "two words", "quote\"and\\end", "*", "(", "a,b"};
  const auto some = [&] {
    std::vector<std::string> list(draw(4));
    for (std::string& label : list) label = labels[draw(8)];
    return list;
  };
  switch (depth == 0 ? draw(7) : draw(16)) {
    case 0: return everything;
    case 1: return nothing;
    case 2: return dots;
    case 3: return batched;
    case 4: return names(some());
    case 5: return ops(some());
    case 6: return phrase_book()[draw(static_cast<std::uint32_t>(phrase_book().size()))].policy;
    case 7:
    case 8: return !random_policy(word, depth - 1);
    case 9: return offload(random_policy(word, depth - 1));
    default: {
      const bool either = draw(2) == 0;
      const Policy left = random_policy(word, depth - 1), right = random_policy(word, depth - 1);
      return either ? left | right : left & right;
    }
  }
}

TEST(Language, RoundTripsRandomExpressions) {
  std::uint64_t word = 0;
  for (int i = 0; i < 400; ++i) {
    const Policy p = random_policy(word, 6);
    expect_same(parse(to_string(p)), p);
  }
}

TEST(Language, RoundTripsTheDeepestExpressions) {
  Policy left = dots, right = dots, nots = dots;
  for (int i = 0; i < 249; ++i) {
    left = left | batched;
    right = batched | right;
    nots = !!nots;
  }
  for (const Policy& p : {left, right, nots}) EXPECT_EQ(parse(to_string(p)), p);
}

const char* const words =
    " Words: everything, nothing, dots, batched, any_name, names, ops, plan, offload, lossy::bfloat16, lossy::int8, "
    "everything_saveable, nothing_saveable, "
    "dots_saveable, dots_with_no_batch_dims_saveable, offload_dot_with_no_batch_dims, save_nothing, save_everything, "
    "save_dot_only, save_dot_with_no_batch_dim, save_qkv_out_proj, save_qkv_out_proj_separate, save_out_proj, "
    "save_context, save_context_and_out_proj, save_dot_for_mlperf_200b, save_dot_except_logits, "
    "save_dot_except_logits_ffn1, save_iteration_input, save_transformer_layer_output, save_only_these_names, "
    "save_any_names_but_these, save_anything_except_these_names, save_from_both_policies, "
    "save_and_offload_only_these_names.";

TEST(ParseErrors, UnknownWordsHaveNearMisses) {
  EXPECT_EQ(error_of("dotz"), std::string("policy: unknown word \"dotz\" at column 1; did you mean \"dots\"?") + words);
  EXPECT_EQ(error_of("dots | save_outproj"),
            std::string("policy: unknown word \"save_outproj\" at column 8; did you mean \"save_out_proj\"?") + words);
  EXPECT_EQ(error_of("my_label"),
            std::string("policy: unknown word \"my_label\" at column 1; a label is written names(my_label).") + words);
}

TEST(ParseErrors, NameColumnFoundAndExpected) {
  EXPECT_EQ(error_of(""), "policy: found the end at column 1, expected a policy such as dots or names(ffn1)");
  EXPECT_EQ(error_of("dots |"), "policy: found the end at column 7, expected a policy such as dots or names(ffn1)");
  EXPECT_EQ(error_of("dots | )"), "policy: found \")\" at column 8, expected a policy such as dots or names(ffn1)");
  EXPECT_EQ(error_of("dots && batched"),
            "policy: found \"&\" at column 7, expected a policy such as dots or names(ffn1)");
  EXPECT_EQ(error_of("dots batched"), "policy: found \"batched\" at column 6, expected \"&\", \"|\" or the end");
  EXPECT_EQ(error_of("everything()"), "policy: found \"(\" at column 11, expected \"&\", \"|\" or the end");
  EXPECT_EQ(error_of("(dots"), "policy: found the end at column 6, expected \")\"");
  EXPECT_EQ(error_of("names"), "policy: found the end at column 6, expected \"(\"");
  EXPECT_EQ(error_of("offload dots"), "policy: found \"dots\" at column 9, expected \"(\"");
  EXPECT_EQ(error_of("names(a b)"), "policy: found \"b\" at column 9, expected \",\" or \")\"");
  EXPECT_EQ(error_of("names(a,)"), "policy: found \")\" at column 9, expected a name");
  EXPECT_EQ(error_of("names(,a)"), "policy: found \",\" at column 7, expected a name");
  EXPECT_EQ(error_of("names(a"), "policy: found the end at column 8, expected \",\" or \")\"");
  EXPECT_EQ(error_of("names(\"a)"), "policy: the quote at column 7 is not closed");
  EXPECT_EQ(error_of("names(\"a\\"), "policy: the quote at column 7 is not closed");
  EXPECT_EQ(error_of("names(\"\")"), "policy: the name at column 7 is empty");
  EXPECT_EQ(error_of("save_and_offload_only_these_names(a)"), "policy: found \"a\" at column 35, expected \"[\"");
  EXPECT_EQ(error_of("save_from_both_policies(dots)"), "policy: found \")\" at column 29, expected \",\"");
  EXPECT_EQ(error_of("dots \x01"), "policy: found \"?\" at column 6, expected \"&\", \"|\" or the end");
  EXPECT_EQ(error_of(std::string("dots\0", 5)), "policy: found \"?\" at column 5, expected \"&\", \"|\" or the end");
}

TEST(ParseErrors, FunctionsAreNotText) {
  const Policy p = dots | [](const SlotInfo&) { return true; };
  EXPECT_EQ(error_of(to_string(p)),
            "policy: <function> at column 8 stands for code, which text cannot bring back; expected a policy such as "
            "dots or names(ffn1)");
}

PlannedSlots slots_of_many_kinds() {
  PlannedSlots slots{.peak_bytes = 12345};
  for (std::uint32_t i = 0; i < 60; ++i) slots.kinds.push_back({"op, \"" + std::to_string(i) + "\": (a)", 64 * i});
  for (std::uint32_t i = 0; i < 300; ++i) {
    slots.kind.push_back(i * 7 % 60);
    slots.kept.push_back(i % 3 == 0);
  }
  return slots;
}

TEST(Language, ReadsBackWhatAPlanChose) {
  const PlannedSlots slots = slots_of_many_kinds();
  const Policy written = planned(slots), read = parse(to_string(written));
  EXPECT_EQ(read, written);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const SlotFingerprint& kind = slots.kinds[slots.kind[i]];
    const SlotInfo slot{.index = static_cast<remat::Index>(i), .op = kind.op, .bytes = kind.bytes};
    EXPECT_EQ(read(slot), slots.kept[i] ? Verdict::save : Verdict::recompute);
    SlotInfo other = slot;
    ++other.bytes;
    EXPECT_THROW(read(other), remat::Error);
    other = slot;
    other.index += static_cast<remat::Index>(slots.size());
    EXPECT_THROW(read(other), remat::Error);
  }
  EXPECT_EQ(parse("plan(kept:1/3, peak:128, input:64, sin:64, abB) & dots"),
            parse("plan(kept:1/3,peak:128,input:64,sin:64,abB)") & dots);
  EXPECT_TRUE(is_planned(offload(read) | dots));
  EXPECT_FALSE(is_planned(names("plan") | dots));
}

// A stored plan that was cut or changed is refused, not half understood.
TEST(ParseErrors, PlansAreReadWholeOrNotAtAll) {
  for (const char* text :
       {"plan()", "plan(kept:0/1, peak:1, a)", "plan(kept:0/1, peak:x, a:1, a)",
        "plan(kept:0/1, peak:99999999999999999999, a:1, a)", "plan(kept:0/1, a:1, peak:1, a)",
        "plan(kept:0/1, peak:1, a, a)", "plan(kept:0/1, peak:1, :1, a)", "plan(kept:0/1, peak:1, a:1, b)",
        "plan(kept:0/1, peak:1, a:1, 1a)", "plan(kept:0/1, peak:1, a:1, 99999999999999999999a)",
        "plan(kept:0/1, peak:1, a:1, 1)", "plan(kept:0/1, peak:1, a:1, aa)", "plan(kept:0/1, peak:1, a:1, A)",
        "plan(kept:0/1, peak:1, a:1, ?)", "plan(kept:0/1, peak:1, a:-1, a)"})
    EXPECT_EQ(error_of(text).rfind("policy: plan(...)", 0), 0U) << text << ": " << error_of(text);
  EXPECT_EQ(error_of("plan(kept:2/4, peak:1, a:1, aAa)"),
            "policy: plan(...) says \"kept:2/4\", its values are \"kept:1/3\"; its text is damaged");
  const std::string whole = to_string(planned(slots_of_many_kinds()));
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_THROW(parse(whole.substr(0, length)), remat::Error);
}

TEST(ParseErrors, NestingIsBounded) {
  const auto nested = [](std::size_t depth, char open) {
    return std::string(depth, open) + "dots" + (open == '(' ? std::string(depth, ')') : "");
  };
  expect_same(parse(nested(499, '(')), dots);
  EXPECT_EQ(error_of(nested(500, '(')), "policy: nested more than 500 deep at column 501");
  EXPECT_EQ(error_of(nested(1000000, '!')), "policy: nested more than 500 deep at column 501");
}

TEST(ParseErrors, NoInputBreaksTheParser) {
  const std::string pieces[] = {
      "dots", "names", "(",    ")",        "[",      "]",   ",",       "\"",
      "\\",   "&",     "|",    "!",        " ",      "*",   "offload", "save_and_offload_only_these_names",
      "\xff", "\n",    "plan", "kept:0/1", "peak:1", "a:1", "a"};
  const remat::RandomStream random{.seed = 11};
  std::uint64_t word = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (std::uint32_t n = random.word(word++) % 12; n > 0; --n) text += pieces[random.word(word++) % 23];
    try {
      const Policy p = parse(text);
      EXPECT_EQ(parse(to_string(p)), p) << text;
    } catch (const remat::Error& error) {
      EXPECT_EQ(std::string(error.what()).rfind("policy: ", 0), 0U) << text;
    }
  }
}

}  // namespace
