// Blocks that masks rule out are not computed, and the number of the others is told: by the options, by what the kernel
// really does, and by looking at every pair.
#include <gtest/gtest.h>

#include <kernels/attention_reference.hpp>
#include <remat/ops/attention.hpp>

namespace remat_test { namespace {

using remat::attention_blocks, remat::AttentionOptions;

TEST(AttentionBlocks, AreThePublishedNumbers) {
  const auto visible = [](Index query_chunk, Index key_chunk) {
    return attention_blocks(32768, 32768, {.causal = true, .query_chunk = query_chunk, .key_chunk = key_chunk});
  };
  EXPECT_EQ(visible(2048, 4096).visible, 72);
  EXPECT_EQ(visible(2048, 4096).total, 128);
  EXPECT_EQ(visible(2048, 2048).visible, 136);
  EXPECT_EQ(visible(2048, 2048).total, 256);
  EXPECT_EQ(visible(4096, 2048).visible, 72);
  EXPECT_EQ(attention_blocks(100, 100).total, 4);
  EXPECT_EQ(attention_blocks(0, 100).total, 0);
  EXPECT_EQ(attention_blocks(100, 0).total, 0);
}

struct Counted {
  Index forward = 0, backward = 0, pairs = 0, total = 0;
};

/// Blocks that the kernel computed, and those with a pair that the rules let see. Of the first batch entry and head.
Counted count_blocks(const AttentionCase& c) {
  AttentionCall<double> call(c);
  auto& p = call.problem;
  const Index query_chunk = p.query_chunk > 0 ? p.query_chunk : 64, key_chunk = p.key_chunk > 0 ? p.key_chunk : 64;
  const Index columns = (p.key_length + key_chunk - 1) / key_chunk;
  const Index rows = (p.query_length + query_chunk - 1) / query_chunk;
  const auto sum = [](const std::vector<std::uint8_t>& marks) {
    Index number = 0;
    for (const std::uint8_t mark : marks) number += mark;
    return number;
  };
  Counted result;
  result.total = rows * columns;
  std::vector<std::uint8_t> none(count(result.total)), marks = none;
  const NaiveRules rules{p};
  for (Index t = 0; t < p.query_length; ++t)
    for (Index s = 0; s < p.key_length; ++s)
      if (rules.sees(0, 0, t, s)) marks[count(t / query_chunk * columns + s / key_chunk)] = 1;
  result.pairs = sum(marks);
  p.computed = (marks = none).data();
  call.forward();
  result.forward = sum(marks);
  p.computed = (marks = none).data();
  call.backward(call.gradients());
  result.backward = sum(marks);
  return result;
}

TEST(AttentionBlocks, AreThoseThatTheKernelComputes) {
  for (const auto& [query_chunk, key_chunk] :
       {std::pair<Index, Index>{0, 0}, {128, 256}, {256, 128}, {50, 30}, {7, 90}})
    for (const auto& [queries, keys] : {std::pair<Index, Index>{2048, 2048}, {300, 500}, {500, 300}, {1, 200}})
      for (const bool causal : {false, true})
        for (const Index window : {0, 1, 70, 400}) {
          AttentionCase c{.batch = 1, .query_length = queries, .key_length = keys, .heads = 1, .kv_heads = 1};
          if (queries == 2048 && (window == 1 || window == 400 || query_chunk == 7)) continue;
          c.head_dims = 1, c.causal = causal, c.offset = keys - queries, c.window = window;
          c.query_chunk = query_chunk, c.key_chunk = key_chunk;
          SCOPED_TRACE(testing::Message() << queries << " x " << keys << " in " << query_chunk << " x " << key_chunk
                                          << " causal " << causal << " window " << window);
          const Counted counted = count_blocks(c);
          const auto said = attention_blocks(
              queries, keys, {.causal = causal, .window = window, .query_chunk = query_chunk, .key_chunk = key_chunk});
          EXPECT_EQ(said.visible, counted.pairs);
          EXPECT_EQ(said.total, counted.total);
          EXPECT_EQ(counted.forward, counted.pairs);
          EXPECT_EQ(counted.backward, counted.pairs);
        }
}

TEST(AttentionBlocks, RunAsPublishedInSmall) {
  AttentionCase c{.batch = 1, .query_length = 4096, .key_length = 4096, .heads = 1, .kv_heads = 1, .head_dims = 1};
  c.query_chunk = 256, c.key_chunk = 512;
  const Counted counted = count_blocks(c);
  EXPECT_EQ(counted.forward, 72);
  EXPECT_EQ(counted.backward, 72);
  EXPECT_EQ(counted.total, 128);
}

TEST(AttentionBlocks, AreSkippedForMasksThatAreOperands) {
  for (int kind = 0; kind < 4; ++kind)
    for (const Index chunk : {0, 20, 100}) {
      AttentionCase c{.batch = 1, .query_length = 400, .key_length = 400, .heads = 1, .kv_heads = 1, .head_dims = 2};
      c.causal = kind % 2 == 1;
      c.query_chunk = c.key_chunk = chunk;
      c.padding = kind == 0, c.prefix = kind == 1, c.segments = kind >= 2;  // sorted, as those of packed sequences
      const Counted counted = count_blocks(c);
      EXPECT_LT(counted.pairs, counted.total);
      EXPECT_EQ(counted.forward, counted.pairs) << kind << " in " << chunk;
      EXPECT_EQ(counted.backward, counted.pairs) << kind << " in " << chunk;
    }
}

}  // namespace
}  // namespace remat_test
