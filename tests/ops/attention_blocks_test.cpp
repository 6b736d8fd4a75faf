// Blocks that masks rule out are not computed, and the number of the others is told: by the options, by what the kernel
// really does, and by looking at every pair.
#include <gtest/gtest.h>

#include <kernels/attention_reference.hpp>
#include <numeric>
#include <remat/ops/attention.hpp>

namespace {

using namespace remat;
using namespace remat_test;

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

/// The blocks that the rules let see anything, having checked that forward and backward multiply just those.
std::vector<std::uint8_t> checked_blocks(const AttentionCase& c) {
  AttentionCall<double> call(c);
  const Index query_chunk = c.query_chunk > 0 ? c.query_chunk : 64, key_chunk = c.key_chunk > 0 ? c.key_chunk : 64;
  const auto seen = NaiveRules{call.problem}.seen_blocks(query_chunk, key_chunk);
  EXPECT_EQ(multiplied_blocks(call, query_chunk, key_chunk, [](auto& of) { of.forward(); }), seen);
  call.forward();  // of no large number: backward starts from its results
  EXPECT_EQ(multiplied_blocks(call, query_chunk, key_chunk, [](auto& of) { of.backward(of.gradients()); }), seen);
  return seen;
}
Index number(const std::vector<std::uint8_t>& marks) { return std::accumulate(marks.begin(), marks.end(), Index{0}); }

TEST(AttentionBlocks, AreThoseThatTheKernelComputes) {
  for (const auto& [query_chunk, key_chunk] : {std::pair<Index, Index>{0, 0}, {64, 128}, {128, 64}, {60, 50}, {40, 90}})
    for (const auto& [queries, keys] : {std::pair<Index, Index>{130, 130}, {70, 130}, {130, 70}, {1, 100}})
      for (const bool causal : {false, true})
        for (const Index window : {0, 1, 70}) {
          AttentionCase c{.batch = 1, .query_length = queries, .key_length = keys, .heads = 1, .kv_heads = 1};
          c.head_dims = 1, c.causal = causal, c.offset = keys - queries, c.window = window;
          c.query_chunk = query_chunk, c.key_chunk = key_chunk;
          SCOPED_TRACE(testing::Message() << queries << " x " << keys << " in " << query_chunk << " x " << key_chunk
                                          << " causal " << causal << " window " << window);
          const auto seen = checked_blocks(c);
          const auto said = attention_blocks(
              queries, keys, {.causal = causal, .window = window, .query_chunk = query_chunk, .key_chunk = key_chunk});
          EXPECT_EQ(said.visible, number(seen));
          EXPECT_EQ(said.total, static_cast<Index>(seen.size()));
        }
}

// Where tasks are many, several tiles of queries share one pass over the keys.
TEST(AttentionBlocks, AreThoseOfEachTileInAStripOfSeveral) {
  AttentionCase c{.batch = 1, .query_length = 130, .key_length = 130, .heads = 32, .kv_heads = 32, .head_dims = 1};
  c.window = 70;
  EXPECT_EQ(number(checked_blocks(c)), 6);
}

TEST(AttentionBlocks, RunAsPublishedInSmall) {
  AttentionCase c{.batch = 1, .query_length = 128, .key_length = 128, .heads = 1, .kv_heads = 1, .head_dims = 1};
  c.query_chunk = 8, c.key_chunk = 16;
  const auto seen = checked_blocks(c);
  EXPECT_EQ(number(seen), 72);
  EXPECT_EQ(seen.size(), 128U);
}

TEST(AttentionBlocks, AreSkippedForMasksThatAreOperands) {
  for (int kind = 0; kind < 4; ++kind)
    for (const Index chunk : {0, 20, 45}) {
      AttentionCase c{.batch = 1, .query_length = 130, .key_length = 130, .heads = 1, .kv_heads = 1, .head_dims = 2};
      c.causal = kind % 2 == 1;
      c.query_chunk = c.key_chunk = chunk;
      c.padding = kind == 0, c.prefix = kind == 1, c.segments = kind >= 2;  // sorted, as those of packed sequences
      SCOPED_TRACE(testing::Message() << kind << " in " << chunk);
      const auto seen = checked_blocks(c);
      EXPECT_LT(number(seen), static_cast<Index>(seen.size()));
    }
}

}  // namespace
