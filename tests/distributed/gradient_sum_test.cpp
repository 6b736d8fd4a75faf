// Sums over micro-batches in one process, and optimizers of a part of the parameters.
#include <gtest/gtest.h>

#include <remat/distributed/gradient_sum.hpp>
#include <remat/distributed/sharded.hpp>
#include <remat/remat.hpp>
#include <vector>

namespace {

using namespace remat;
using namespace remat::distributed;

Parameter<float> made(const ParameterRegistry& parameters, const std::string& name, const Shape& shape) {
  return (parameters / "model").parameter<float>(name, shape, init::normal(1));
}
/// A gradient of every size of number, so that the order of sums shows in its bits.
Tensor<float> gradient(const Shape& shape, Index of) {
  Tensor<float> values(shape);
  const RandomStream random{9, static_cast<std::uint32_t>(of), 0};
  for (Index i = 0; i < values.size(); ++i)
    values.write()[i] =
        static_cast<float>(random.word(static_cast<std::uint64_t>(i)) % 1000) / 7.0F * (i % 3 == 0 ? 1e-6F : 1.0F);
  return values.copy();
}

TEST(GradientSum, AddsByTheTree) {
  const ParameterRegistry parameters;
  const auto w = made(parameters, "w", {3, 5});
  GradientSum sum(parameters);
  const Range mine = sum.begin(7);
  EXPECT_EQ(mine, (Range{0, 7}));
  std::vector<Tensor<float>> parts;
  double by_hand = 0;
  for (Index i = 0; i < 7; ++i) {
    parts.push_back(gradient({3, 5}, i));
    w.set_grad(parts.back());
    sum.add(0.1 * static_cast<double>(i));
    EXPECT_FALSE(w.has_grad());  // the next backward begins from none
  }
  by_hand = ((0.0 + 0.1) + (0.1 * 2 + 0.1 * 3)) + ((0.1 * 4 + 0.1 * 5) + 0.1 * 6);
  EXPECT_EQ(sum.finish(), by_hand);
  bool is_chain = true;
  for (Index i = 0; i < 15; ++i) {
    const auto p = [&](std::size_t n) { return parts[n][i]; };
    const float tree = ((p(0) + p(1)) + (p(2) + p(3))) + ((p(4) + p(5)) + p(6));
    EXPECT_EQ(w.grad()[i], tree) << i;
    is_chain = is_chain && tree == p(0) + p(1) + p(2) + p(3) + p(4) + p(5) + p(6);
  }
  EXPECT_FALSE(is_chain);  // or this could not tell a tree from a chain
}

TEST(GradientSum, HoldsLog2OfItsMicroBatches) {
  const ParameterRegistry parameters;
  const auto w = made(parameters, "w", {64});
  GradientSum sum(parameters);
  sum.begin(8);
  std::size_t most = 0;
  for (Index i = 0; i < 8; ++i) {
    w.set_grad(gradient({64}, i));
    most = std::max(most, sum.held_bytes());
    sum.add();
  }
  EXPECT_EQ(most, 3 * 64 * sizeof(float));
  sum.finish();
  EXPECT_EQ(sum.held_bytes(), 0U);
}

// A micro-batch that does not reach a parameter adds nothing to it: -0 stays -0.
TEST(GradientSum, WhatHasNoGradientIsNotAddedAsZero) {
  const ParameterRegistry parameters;
  const auto a = made(parameters, "a", {1}), b = made(parameters, "b", {1}), c = made(parameters, "c", {1});
  GradientSum sum(parameters);
  sum.begin(3);
  for (Index i = 0; i < 3; ++i) {
    if (i == 1) a.set_grad(Tensor<float>({1}, {-0.0F}));
    b.set_grad(Tensor<float>({1}, {1.0F}));
    sum.add();
  }
  sum.finish();
  EXPECT_TRUE(same_bits(a.grad(), Tensor<float>({1}, {-0.0F})));
  EXPECT_EQ(b.grad().item(), 3);
  EXPECT_FALSE(c.has_grad());
}

TEST(GradientSum, ForeseesWhatWaits) {
  const ParameterRegistry parameters;
  made(parameters, "a", {64}), made(parameters, "b", {3});
  const GradientSum sum(parameters);
  EXPECT_EQ(sum.waiting_bytes(1), 0U);
  EXPECT_EQ(sum.waiting_bytes(2), 67 * sizeof(float));
  EXPECT_EQ(sum.waiting_bytes(8), 3 * 67 * sizeof(float));
  EXPECT_EQ(waiting_gradients(8, 2), 2);  // each has four
  EXPECT_EQ(waiting_gradients(8, 8), 0);
  EXPECT_EQ(waiting_gradients(5, 2), 1);
}

TEST(GradientSum, RefusesWhatWouldBeCountedWrong) {
  const ParameterRegistry parameters;
  const auto w = made(parameters, "w", {2});
  GradientSum sum(parameters);
  EXPECT_THROW(sum.begin(0), Error);
  w.set_grad(gradient({2}, 0));
  EXPECT_THROW(sum.begin(2), Error);  // left from before
  w.zero_grad();
  sum.begin(2);
  w.set_grad(gradient({2}, 0));
  sum.add();
  EXPECT_THROW(sum.finish(), Error);  // one is missing
  w.set_grad(gradient({2}, 1));
  sum.add();
  EXPECT_THROW(sum.add(), Error);  // one too many
  sum.finish();
  parameters.zero_grad();
  sum.begin(1);
  const auto late = made(parameters, "late", {2});
  late.set_grad(gradient({2}, 2));
  EXPECT_THROW(sum.add(), Error);  // made after the sum
}

TEST(GradientSum, RefusesGradientsThatAnUpdateUsedUp) {
  const ParameterRegistry parameters;
  const auto w = made(parameters, "w", {2});
  GradientSum all(parameters);
  optim::AdamW adamw(parameters);
  all.begin(1);
  Tape tape;
  tape.backward(sum(tape.parameter(w)), adamw.in_backward(1e-2));
  EXPECT_THROW(all.add(), Error);
}

TEST(Shards, AreOfFloatsAndDoubles) {
  const ParameterRegistry parameters;
  (parameters / "model").parameter<bfloat16>("w", {2}, init::zeros());
  EXPECT_THROW(Shards(parameters, 1), Error);
}

TEST(Shards, OwnEveryElementOnceInWholeBlocks) {
  const ParameterRegistry parameters;
  made(parameters, "a", {3, 5000}), made(parameters, "b", {7}), made(parameters, "c", {4096}),
      made(parameters, "d", {0});
  for (const int ranks : {1, 2, 3, 4, 20}) {
    const Shards shards(parameters, ranks);
    for (const auto& entry : parameters.entries()) {
      Index next = 0;
      for (int r = 0; r < ranks; ++r) {
        const auto [begin, end] = shards.range(r, *entry);
        if (begin == end) continue;
        EXPECT_EQ(begin, next);
        EXPECT_EQ(begin % Shards::block_size, 0);
        next = end;
      }
      EXPECT_EQ(next, entry->value.size()) << entry->path << " by " << ranks;
    }
    for (int r = 0; r < ranks; ++r) {
      EXPECT_LE(shards.of(r, 0).size(), 11U / static_cast<std::size_t>(ranks) + 1);
      EXPECT_GE(shards.of(r, 0).size(), 11U / static_cast<std::size_t>(ranks));
    }
  }
}

// From the last parameter to the first, each as full as was asked; what fills one has it alone.
TEST(Shards, FallIntoBucketsFromTheEnd) {
  const ParameterRegistry parameters;
  made(parameters, "a", {10}), made(parameters, "b", {10}), made(parameters, "c", {100}), made(parameters, "d", {10}),
      made(parameters, "e", {20}), made(parameters, "f", {5});
  using Bucket = Shards::Bucket;
  const auto buckets = [&](std::size_t bytes) { return Shards(parameters, 2, bytes).buckets(); };
  EXPECT_EQ(buckets(90), (std::vector<Bucket>{{4, 6}, {3, 4}, {2, 3}, {0, 2}}));
  EXPECT_EQ(buckets(1), (std::vector<Bucket>{{5, 6}, {4, 5}, {3, 4}, {2, 3}, {1, 2}, {0, 1}}));
  EXPECT_EQ(buckets(1 << 20), (std::vector<Bucket>{{0, 6}}));
  EXPECT_FALSE(Shards(parameters, 2, 90).same_as(Shards(parameters, 2, 1)));
  EXPECT_TRUE(Shards(parameters, 2, 90).same_as(Shards(parameters, 2, 90)));
}

TEST(Shards, OfSeveralBucketsOwnEveryElementOnce) {
  const ParameterRegistry parameters;
  made(parameters, "a", {3, 5000}), made(parameters, "b", {7}), made(parameters, "c", {4096}),
      made(parameters, "d", {0});
  for (const int ranks : {1, 2, 3, 4})
    for (const std::size_t bytes : {std::size_t{1}, std::size_t{16000}}) {
      const Shards shards(parameters, ranks, bytes);
      for (const auto& entry : parameters.entries()) {
        Index owned = 0;
        for (int r = 0; r < ranks; ++r) owned += shards.range(r, *entry).second - shards.range(r, *entry).first;
        EXPECT_EQ(owned, entry->value.size()) << entry->path << " by " << ranks;
      }
      std::size_t blocks = 0;
      for (std::size_t b = 0; b < shards.buckets().size(); ++b)
        for (int r = 0; r < ranks; ++r)
          for (std::size_t w = 0; w < shards.windows(b, 2); ++w) blocks += shards.window(r, b, w, 2).size();
      EXPECT_EQ(blocks, 11U) << ranks;
    }
}

template <class Optimizer>
void expect_parts_to_make_the_whole() {
  const ParameterRegistry whole(3);
  made(whole, "a", {3, 5000}), made(whole, "b", {7});
  Optimizer all(whole);
  std::vector<ParameterRegistry> copies(3, whole);
  std::vector<std::unique_ptr<Optimizer>> parts;
  const Shards shards(whole, 3);
  for (int r = 0; r < 3; ++r) {
    parts.push_back(std::make_unique<Optimizer>(copies[static_cast<std::size_t>(r)]));
    parts.back()->update_only([&shards, &whole, r](const ParameterEntry& entry) {
      const auto [begin, end] = shards.range(r, *whole.at<float>(entry.path).entry());
      return optim::detail::ElementRange{begin, end};
    });
  }
  const auto first = whole.at<float>("model/a").value().copy();
  for (Index step = 0; step < 3; ++step) {
    for (const char* path : {"model/a", "model/b"}) {
      const auto grad = gradient(whole.at<float>(path).shape(), step);
      whole.at<float>(path).set_grad(grad);
      for (const auto& copy : copies) copy.template at<float>(path).set_grad(grad);
    }
    all.step(1e-2, 0.5);
    for (const auto& part : parts) part->step(1e-2, 0.5);
  }
  std::size_t bytes = 0;
  for (int r = 0; r < 3; ++r) {
    const auto& copy = copies[static_cast<std::size_t>(r)];
    bytes += parts[static_cast<std::size_t>(r)]->state_bytes();
    const auto a = copy.template at<float>("model/a");
    const auto [begin, end] = shards.range(r, *whole.at<float>("model/a").entry());
    EXPECT_LT(begin, end);
    for (Index i = 0; i < a.size(); ++i)
      ASSERT_EQ(a.value()[i], i >= begin && i < end ? whole.at<float>("model/a").value()[i] : first[i])
          << r << " " << i;
  }
  EXPECT_EQ(bytes, all.state_bytes());
}

TEST(Shards, UpdatesByPartsHaveTheBitsOfTheWhole) {
  expect_parts_to_make_the_whole<optim::AdamW>();
  expect_parts_to_make_the_whole<optim::Lion>();
}

TEST(Sharded, StateIsThatOfTheOptimizerItself) {
  const ParameterRegistry plain(3), sharded(3);
  optim::AdamW adamw(plain, {.weight_decay = 0.1});
  made(plain, "a", {3, 5000}), made(sharded, "a", {3, 5000});
  ShardedAdamW shards(Group(), sharded, {.weight_decay = 0.1});
  const auto step = [](const ParameterRegistry& parameters, auto& optimizer, Index i) {
    parameters.at<float>("model/a").set_grad(gradient({3, 5000}, i));
    optimizer.step(1e-2);
  };
  step(plain, adamw, 0), step(sharded, shards, 0);
  const StateDict a = adamw.state_dict(), b = shards.state_dict();
  EXPECT_EQ(a.numbers, b.numbers);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors)
    EXPECT_TRUE(same_bits(Tensor<float>(tensor), Tensor<float>(b.tensors.at(name)))) << name;
  // Each goes on from the other's.
  adamw.load_state_dict(b), shards.load_state_dict(a);
  step(plain, adamw, 1), step(sharded, shards, 1);
  EXPECT_TRUE(same_bits(plain.at<float>("model/a").value(), sharded.at<float>("model/a").value()));
  StateDict wrong = a;
  wrong.tensors.begin()->second.shape = {5000, 3};
  EXPECT_THROW(shards.load_state_dict(wrong), Error);
  StateDict of_others = a;
  of_others.tensors.emplace("model/none/first_moment", a.tensors.begin()->second);
  EXPECT_THROW(shards.load_state_dict(of_others), Error);
}

TEST(Sharded, WhatIsUnfrozenLaterBelongsToNobody) {
  const ParameterRegistry parameters(3);
  made(parameters, "a", {4}), made(parameters, "b", {4});
  parameters.freeze("*/b");
  ShardedAdamW shards(Group(), parameters);
  parameters.unfreeze("*/b");
  parameters.at<float>("model/a").set_grad(gradient({4}, 0));
  parameters.at<float>("model/b").set_grad(gradient({4}, 0));
  EXPECT_THROW(shards.step(1e-2), Error);
}

}  // namespace
