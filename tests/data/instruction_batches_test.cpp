// Batches of samples: what is where in a row, every sample once an epoch, the same for the same step.
#include <gtest/gtest.h>

#include <algorithm>
#include <core/expect_error.hpp>
#include <map>
#include <remat/data/held_out.hpp>
#include <remat/data/instruction_batches.hpp>
#include <set>
#include <string>
#include <vector>

namespace {

using namespace remat;
using data::InstructionBatches;
using data::InstructionBatchesConfig;
using data::SequentialInstructionBatches;
using remat_test::expect_error;

// Samples of known lengths: sample i has the tokens 1000 i + 1, 1000 i + 2 and so on; the last `answers[i]` before
// `behind[i]` more are targets.
struct Samples {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> is_target;
  std::vector<std::int64_t> offsets{0};

  void add(int prompt, int answer, int behind) {
    const auto base = static_cast<std::int32_t>(1000 * (offsets.size() - 1));
    for (int t = 0; t < prompt + answer + behind; ++t) {
      tokens.push_back(base + 1 + t);
      is_target.push_back(t >= prompt && t < prompt + answer);
    }
    offsets.push_back(static_cast<std::int64_t>(tokens.size()));
  }
  data::TokenSamples view() const { return {tokens, is_target, offsets}; }
};

Samples many(int count, int longest) {
  Samples samples;
  const RandomStream random{5, 0, 0};
  for (int i = 0; i < count; ++i) {
    const auto word = [&](int n) { return static_cast<int>(random.word(static_cast<std::uint64_t>(3 * i + n)) >> 8); };
    const int prompt = 1 + word(0) % (longest / 2), answer = 1 + word(1) % 7;
    samples.add(prompt, std::min(answer, longest + 1 - prompt), word(2) % 3);
  }
  return samples;
}

std::vector<std::int32_t> all(const Tensor<std::int32_t>& tensor) {
  return {tensor.span().begin(), tensor.span().end()};
}

// The samples of a row, with all that must hold in it.
std::vector<Index> read_row(const data::InstructionBatch& batch, Index row, const data::TokenSamples& samples,
                            std::int32_t padding) {
  const Index length = batch.inputs.shape()[1];
  const auto at = [&](const Tensor<std::int32_t>& tensor, Index t) { return tensor[row * length + t]; };
  std::vector<Index> found;
  Index t = 0;
  while (t < length && at(batch.inputs, t) != padding) {
    const Index i = at(batch.inputs, t) / 1000;
    const data::TokenSample sample = samples[i];
    for (Index p = 0; p < sample.positions(); ++p, ++t) {
      EXPECT_LT(t, length);
      const auto next = static_cast<std::size_t>(p) + 1;
      EXPECT_EQ(at(batch.inputs, t), sample.tokens[next - 1]);
      EXPECT_EQ(at(batch.targets, t), sample.is_target[next] != 0 ? sample.tokens[next] : -1);
      EXPECT_EQ(at(batch.segments, t), std::ssize(found));
    }
    found.push_back(i);
  }
  for (; t < length; ++t) {
    EXPECT_EQ(at(batch.inputs, t), padding);
    EXPECT_EQ(at(batch.targets, t), -1);
    EXPECT_EQ(at(batch.segments, t), std::ssize(found));
  }
  return found;
}

// Protects what a row is, by hand: inputs end before the last target, a target is the next token, and what is behind
// the last target takes no place.
TEST(InstructionBatches, PutSamplesSideBySide) {
  Samples samples;
  samples.add(2, 2, 1);  // 1 2 [3 4] 5
  samples.add(1, 1, 0);  // 1001 [1002]
  samples.add(3, 1, 0);  // 2001 2002 2003 [2004]
  const SequentialInstructionBatches batches(samples.view(), {.batch = 2, .length = 5, .padding = 7});
  ASSERT_EQ(batches.size(), 1);
  const auto batch = batches.at(0);
  EXPECT_EQ(batch.inputs.shape(), (Shape{2, 5}));
  EXPECT_EQ(all(batch.inputs), (std::vector<std::int32_t>{1, 2, 3, 1001, 7, 2001, 2002, 2003, 7, 7}));
  EXPECT_EQ(all(batch.targets), (std::vector<std::int32_t>{-1, 3, 4, 1002, -1, -1, -1, 2004, -1, -1}));
  EXPECT_EQ(all(batch.segments), (std::vector<std::int32_t>{0, 0, 0, 1, 2, 0, 0, 0, 1, 1}));
  EXPECT_EQ(batch.target_count(), 4);
  const auto second = batch.rows(1, 2);
  EXPECT_EQ(all(second.inputs), (std::vector<std::int32_t>{2001, 2002, 2003, 7, 7}));
  EXPECT_EQ(all(second.targets), (std::vector<std::int32_t>{-1, -1, 2004, -1, -1}));
  EXPECT_EQ(all(second.segments), (std::vector<std::int32_t>{0, 0, 0, 1, 1}));
  EXPECT_EQ(second.target_count() + batch.rows(0, 1).target_count(), batch.target_count());
  expect_error({"rows [1, 3) of 2"}, [&] { batch.rows(1, 3); });
}

// Protects an epoch, packed or not, for batches that divide it and that do not: every sample exactly once, whole, in a
// row that is long enough; each epoch in another order.
TEST(InstructionBatches, SeeEverySampleOnceAnEpoch) {
  const Samples samples = many(200, 30);
  for (const bool is_packed : {true, false})
    for (const Index size : {1, 7}) {
      const InstructionBatchesConfig config{.batch = size, .length = 32, .seed = 3, .is_packed = is_packed};
      const InstructionBatches batches(samples.view(), config);
      if (!is_packed) {
        EXPECT_EQ(batches.rows_per_epoch(), 200);
      }
      std::vector<std::vector<Index>> rows;
      for (Index step = 0; static_cast<Index>(rows.size()) < 3 * batches.rows_per_epoch(); ++step) {
        const auto batch = batches.at(step);
        for (Index row = 0; row < size; ++row) rows.push_back(read_row(batch, row, samples.view(), 0));
      }
      std::vector<std::vector<Index>> orders;
      for (Index epoch = 0; epoch < 3; ++epoch) {
        std::vector<Index> seen;
        for (Index n = 0; n < batches.rows_per_epoch(); ++n) {
          const auto& row = rows[static_cast<std::size_t>(epoch * batches.rows_per_epoch() + n)];
          EXPECT_TRUE(!row.empty() && (is_packed || row.size() == 1));
          seen.insert(seen.end(), row.begin(), row.end());
        }
        orders.push_back(seen);
        std::sort(seen.begin(), seen.end());
        ASSERT_EQ(seen.size(), 200U);
        EXPECT_TRUE(seen.front() == 0 && seen.back() == 199 &&
                    std::adjacent_find(seen.begin(), seen.end()) == seen.end());
      }
      EXPECT_TRUE(orders[0] != orders[1] && orders[1] != orders[2] && orders[0] != orders[2]);
      EXPECT_EQ(batches.steps_per_epoch(), (batches.rows_per_epoch() + size - 1) / size);
    }
}

// Protects the use of packing: hardly any padding where samples are short, and never more rows than samples.
TEST(InstructionBatches, LeaveLittlePadding) {
  const Samples samples = many(400, 30);
  const InstructionBatches packed(samples.view(), {.batch = 1, .length = 64});
  const InstructionBatches apart(samples.view(), {.batch = 1, .length = 64, .is_packed = false});
  EXPECT_GT(packed.fill(), 0.97);
  EXPECT_LT(apart.fill(), 0.4);
  EXPECT_NEAR(packed.fill() * static_cast<double>(packed.rows_per_epoch()),
              apart.fill() * static_cast<double>(apart.rows_per_epoch()), 1e-9);
}

// Protects resuming: a batch follows from seed and step alone.
TEST(InstructionBatches, ArePureFunctionsOfSeedAndStep) {
  const Samples samples = many(50, 30);
  const InstructionBatchesConfig config{.batch = 3, .length = 32, .seed = 11};
  InstructionBatches one(samples.view(), config);
  const InstructionBatches other(samples.view(), config);
  InstructionBatchesConfig reseeded = config;
  reseeded.seed = 12;
  const InstructionBatches differently(samples.view(), reseeded);
  for (Index step = 0; step < 20; ++step) one.next();
  const auto next = one.next(), again = other.at(20);
  EXPECT_EQ(all(next.inputs), all(again.inputs));
  EXPECT_EQ(all(next.targets), all(again.targets));
  EXPECT_EQ(all(next.segments), all(again.segments));
  EXPECT_NE(all(next.inputs), all(differently.at(20).inputs));
  expect_error({"step -1"}, [&] { other.at(-1); });
}

// Protects evaluation: every sample of those asked for once, in order, and all their targets.
TEST(SequentialInstructionBatches, SeeEverySampleOnceInOrder) {
  const Samples samples = many(60, 30);
  const std::vector<Index> which = {4, 3, 50, 7, 9, 10, 11, 12, 59};
  Index targets = 0;
  for (const Index i : which) targets += samples.view()[i].target_count();
  for (const bool is_packed : {true, false}) {
    const InstructionBatchesConfig config{.batch = 2, .length = 32, .is_packed = is_packed};
    const SequentialInstructionBatches batches(samples.view(), which, config);
    std::vector<Index> seen;
    Index counted = 0;
    for (const auto& batch : batches) {
      for (Index row = 0; row < batch.inputs.shape()[0]; ++row)
        for (const Index i : read_row(batch, row, samples.view(), 0)) seen.push_back(i);
      counted += batch.target_count();
    }
    EXPECT_EQ(seen, which);
    EXPECT_EQ(counted, targets);
    for (const Index i : {Index{-1}, batches.size()})
      expect_error({"batches: asked for batch " + std::to_string(i) + " of "}, [&] { (void)batches.at(i); });
  }
}

TEST(InstructionBatches, RefuseWhatDoesNotFit) {
  Samples samples;
  samples.add(5, 2, 3);
  const std::vector<Index> none, beyond = {1};
  expect_error({"data.jsonl: sample 0 needs 6 positions, but rows have 5", "context of 5"},
               [&] { InstructionBatches(samples.view(), {.batch = 1, .length = 5, .name = "data.jsonl"}); });
  EXPECT_EQ(InstructionBatches(samples.view(), {.batch = 1, .length = 6}).fill(), 1);
  expect_error({"batch 0"}, [&] { InstructionBatches(samples.view(), {.batch = 0}); });
  expect_error({"padding -1"}, [&] { SequentialInstructionBatches(samples.view(), {.padding = -1}); });
  expect_error({"no sample"}, [&] { InstructionBatches(samples.view(), none, {}); });
  expect_error({"do not go from 0"}, [&] { SequentialInstructionBatches({}, {}); });
  expect_error({"sample 1 of 1"}, [&] { InstructionBatches(samples.view(), beyond, {}); });
  samples.add(3, 0, 0);
  expect_error({"sample 1 has no target"}, [&] { InstructionBatches(samples.view(), {}); });
}

// Protects spans from anywhere: each fault is found before anything is read by it.
TEST(TokenSamples, AreChecked) {
  Samples samples = many(3, 10);
  samples.view().check("x");
  const auto refuses = [](Samples bad, const char* what) {
    expect_error({"x: ", what}, [&] { bad.view().check("x"); });
  };
  const auto with = [&](auto&& change) {
    Samples changed = samples;
    change(changed);
    return changed;
  };
  refuses(with([](Samples& s) { s.is_target.pop_back(); }), "flags of targets");
  refuses(with([](Samples& s) { s.offsets.clear(); }), "do not go from 0");
  refuses(with([](Samples& s) { s.offsets[0] = 1; }), "do not go from 0");
  refuses(with([](Samples& s) { ++s.offsets[3]; }), "do not go from 0");
  refuses(with([](Samples& s) { s.offsets[1] = -1; }), "sample 0 has the tokens [0, -1)");
  refuses(with([](Samples& s) { s.offsets[1] = 1000000; }), "sample 0 has the tokens [0, 1000000)");
  refuses(with([](Samples& s) { s.offsets[2] = s.offsets[1]; }), "sample 1 has the tokens");
  refuses(with([](Samples& s) { s.is_target[0] = 1; }), "sample 0 has no target behind its first token, or that token");
  refuses(with([](Samples& s) { std::fill(s.is_target.begin(), s.is_target.end(), 0); }), "sample 0 has no target");
}

// Protects what is measured on: a sample is held out by its number and the seed alone, about as many as asked for.
TEST(HeldOutSplit, DependsOnNumberAndSeedOnly) {
  const auto small = data::split_held_out(1000, 0.1, 3), large = data::split_held_out(2000, 0.1, 3);
  EXPECT_NEAR(static_cast<double>(large.held_out.size()), 200, 60);
  EXPECT_EQ(small.train.size() + small.held_out.size(), 1000U);
  EXPECT_TRUE(std::equal(small.held_out.begin(), small.held_out.end(), large.held_out.begin()));
  EXPECT_TRUE(std::is_sorted(large.train.begin(), large.train.end()));
  EXPECT_NE(small.held_out, data::split_held_out(1000, 0.1, 4).held_out);
  EXPECT_EQ(data::split_held_out(5, 0, 1).train.size(), 5U);
  expect_error({"of 3 samples", "0.001", "more samples"}, [] { data::split_held_out(3, 0.001, 1); });
  expect_error({"fraction 1 "}, [] { data::split_held_out(3, 1, 1); });
  expect_error({"of 0 samples"}, [] { data::split_held_out(0, 0, 1); });
}

}  // namespace
