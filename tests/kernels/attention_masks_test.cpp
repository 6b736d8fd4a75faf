// Every option of the fused attention, and pairs of them, against the formula written out in double.
#include <gtest/gtest.h>

#include <kernels/attention_reference.hpp>

namespace {

using namespace remat;
using namespace remat_test;

/// Double agrees with the formula to 1e-12, float to 5e-6.
void check(const AttentionCase& c) {
  AttentionCall<double> expected(c), actual(c);
  naive(expected);
  actual.run();
  EXPECT_LE(distance_of_calls(actual, expected), 1e-12);
  AttentionCall<float> single(c);
  single.run();
  EXPECT_LE(distance_of_calls(single, expected, 1), 5e-6);
}

TEST(AttentionMasks, AreTheFormulaInPairs) {
  for (const AttentionKind& one : attention_kinds)
    for (const AttentionKind& other : attention_kinds) {
      if (&other < &one) continue;
      SCOPED_TRACE(one.name + " with " + other.name);
      AttentionCase c{.batch = 3, .query_length = 45, .key_length = 45, .heads = 3, .kv_heads = 3, .head_dims = 6};
      c.causal = false, c.query_chunk = 20, c.key_chunk = 16;
      one.apply(c), other.apply(c);
      check(c);
      c.kv_heads = 1, c.query_length = 29, c.offset = 9;  // cached keys, one key head
      c.fused = false, c.query_chunk = 0;
      check(c);
    }
}

TEST(AttentionMasks, AreTheFormulaAtEveryLengthAndChunk) {
  struct Chunks {
    Index query, key, chunk;
  };
  for (const AttentionKind& kind : attention_kinds)
    for (const auto& [query, key, c] : {Chunks{0, 0, 64}, {20, 20, 20}, {20, 33, 33}, {33, 20, 20}, {7, 70, 70}}) {
      for (const Index length : {Index{1}, Index{7}, c - 1, c, c + 1, 2 * c + 3}) {
        SCOPED_TRACE(testing::Message() << kind.name << " " << length << " in " << query << " x " << key);
        AttentionCase each{.batch = 2, .query_length = length, .key_length = length, .heads = 2, .kv_heads = 1};
        each.causal = false, each.query_chunk = query, each.key_chunk = key;
        kind.apply(each);
        check(each);
      }
    }
}

TEST(AttentionMasks, AreTheFormulaOverGroupsAndUnequalLengths) {
  for (const AttentionKind& kind : attention_kinds)
    for (const Index kv_heads : {8, 2, 1})
      for (const auto& [queries, keys] : {std::pair<Index, Index>{70, 70}, {5, 130}, {131, 66}}) {
        SCOPED_TRACE(testing::Message() << kind.name << " K " << kv_heads << " T " << queries << " S " << keys);
        AttentionCase c{
            .batch = 1, .query_length = queries, .key_length = keys, .heads = 8, .kv_heads = kv_heads, .head_dims = 4};
        c.offset = keys - queries, c.causal = false;
        kind.apply(c);
        check(c);
      }
}

TEST(AttentionMasks, SumTheBiasGradientOverEveryBroadcast) {
  for (int axes = 1; axes < 16; ++axes)
    for (const bool causal : {false, true}) {
      SCOPED_TRACE(axes);
      AttentionCase c{.batch = 2, .query_length = 70, .key_length = 75, .heads = 4, .kv_heads = 2, .causal = causal};
      c.bias = {axes & 1, axes >> 1 & 1, axes >> 2 & 1, axes >> 3 & 1};
      if (c.bias[3] != 0) {
        check(c);
        continue;
      }
      // One number for a whole row of scores changes nothing: what is left of its gradient is rounding.
      AttentionCall<double> call(c);
      call.run();
      for (const double x : call.dbias) EXPECT_LE(std::abs(x), 1e-13);
    }
}

TEST(AttentionMasks, TakeEveryNumberOfHeadsInAlibi) {
  for (const Index heads : {1, 2, 3, 6, 8, 12}) {
    AttentionCase c{.batch = 1, .query_length = 20, .key_length = 20, .heads = heads, .kv_heads = heads};
    c.alibi = true;
    check(c);
  }
  EXPECT_EQ(remat::kernels::attention::alibi_slope(0, 8), 0.5);
  EXPECT_EQ(remat::kernels::attention::alibi_slope(7, 8), 1.0 / 256);
  // 12 heads: those of 8, then the first, third, ... of 16.
  EXPECT_EQ(remat::kernels::attention::alibi_slope(8, 12), std::exp2(-0.5));
  EXPECT_EQ(remat::kernels::attention::alibi_slope(11, 12), std::exp2(-3.5));
}

TEST(AttentionMasks, PutDistancesIntoTheBucketsOfT5) {
  // By the published code with 32 buckets and max_distance 128.
  const auto bucket = [](bool causal, Index distance) {
    remat::kernels::AttentionProblem<float> p;
    p.causal = causal, p.buckets = 32;
    std::vector<std::byte> scratch(1024);
    remat::kernels::attention::ScratchArena arena(scratch.data());
    const remat::kernels::attention::RelativeBuckets buckets(p, arena);
    buckets.fill();
    return buckets(distance);
  };
  const std::pair<Index, Index> two_sided[] = {{0, 0},    {-1, 1},   {1, 17},   {-7, 7},    {7, 23},  {-8, 8},
                                               {-15, 9},  {-16, 10}, {-31, 11}, {-32, 12},  {32, 28}, {-63, 13},
                                               {-64, 14}, {127, 31}, {128, 31}, {-1000, 15}};
  for (const auto& [distance, expected] : two_sided) EXPECT_EQ(bucket(false, distance), expected) << distance;
  const std::pair<Index, Index> one_sided[] = {{0, 0},    {5, 0},     {-15, 15},  {-16, 16},  {-18, 16},  {-19, 17},
                                               {-64, 26}, {-112, 30}, {-113, 31}, {-128, 31}, {-1000, 31}};
  for (const auto& [distance, expected] : one_sided) EXPECT_EQ(bucket(true, distance), expected) << distance;
}

TEST(AttentionMasks, TurnByPositionsUpToAMillion) {
  // Scores depend on distances only, so far from 0 they must be those near 0.
  AttentionCase c{.batch = 1, .query_length = 130, .key_length = 130, .heads = 1, .kv_heads = 1, .head_dims = 64};
  c.rotary_base = 10000;
  AttentionCall<double> near(c);
  near.run();
  c.key_position = (Index{1} << 20) - 200;
  AttentionCall<double> far(c);
  far.run();
  EXPECT_LE(distance_of_calls(far, near), 1e-9);  // an angle of 2^20 is known to 1e-10
  AttentionCall<float> single(c);
  single.run();
  EXPECT_LE(distance_of_calls(single, near), 2e-6);
}

TEST(AttentionMasks, DoNotLeakNaN) {
  // NaN in keys and values that somebody may see but most do not, and in all that padding hides.
  for (const AttentionKind& kind : attention_kinds)
    for (const Index heads : {2, 8}) {
      SCOPED_TRACE(kind.name);
      AttentionCase c{.batch = 1, .query_length = 70, .key_length = 70, .heads = heads, .kv_heads = heads};
      c.causal = false;
      kind.apply(c);
      c.padding = true;  // keys 46 .. 69 are hidden
      AttentionCall<double> clean(c), dirty(c);
      const auto nan = std::numeric_limits<double>::quiet_NaN();
      const Index width = dirty.problem.k_token, used = heads * c.head_dims;
      for (const Index start : {dirty.k_at, dirty.v_at})
        for (Index s = 46; s < 70; ++s) {
          std::fill_n(dirty.input.begin() + start + s * width, used, nan);
          std::fill_n(clean.input.begin() + start + s * width, used, 0.0);
        }
      clean.run(), dirty.run();
      EXPECT_LE(distance_of_calls(dirty, clean), 1e-13);
      for (const double x : clean.gradient) ASSERT_TRUE(std::isfinite(x));
    }
}

TEST(AttentionMasks, HideNaNByBiasAndBySegment) {
  for (const bool by_bias : {true, false})
    for (const Index heads : {1, 8}) {
      AttentionCase c{.batch = 1, .query_length = 70, .key_length = 70, .heads = heads, .kv_heads = heads};
      c.causal = false;
      c.segments = !by_bias;
      if (by_bias) c.bias = {0, 0, 0, 1};
      AttentionCall<float> clean(c), dirty(c);
      const auto inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
      for (AttentionCall<float>* call : {&clean, &dirty})
        for (Index s = 0; s < 70; ++s)
          if (s % 3 == 1) {  // in a tile with others
            if (by_bias) call->bias[count(s)] = -inf;
            call->key_segments[count(s)] = 99;
            for (const Index start : {call->k_at, call->v_at})
              std::fill_n(call->input.begin() + start + s * call->problem.k_token, call->problem.k_token,
                          call == &clean ? 0
                          : s % 2 == 0   ? nan
                                         : inf);
          }
      clean.run(), dirty.run();
      EXPECT_LE(distance(dirty.out, clean.out), 1e-6);
      EXPECT_LE(distance(dirty.gradient, clean.gradient), 1e-5);
      EXPECT_LE(distance(dirty.dbias, clean.dbias), 1e-5);
    }
}

TEST(AttentionMasks, GiveZerosToAQueryThatSeesNothing) {
  // Each way of seeing nothing: no key left, another segment, -infinity everywhere, two masks stacked.
  for (int way = 0; way < 5; ++way)
    for (const Index heads : {1, 8}) {
      SCOPED_TRACE(way);
      AttentionCase c{.batch = 1, .query_length = 70, .key_length = 90, .heads = heads, .kv_heads = heads};
      c.causal = false;
      if (way == 0) c.padding = true;
      if (way == 1 || way == 4) c.segments = true;
      if (way == 2 || way == 4) c.bias = {0, 0, 1, 1};
      if (way == 3) c.window = 5, c.causal = true, c.offset = 200;
      AttentionCall<float> call(c);
      std::fill(call.key_lengths.begin(), call.key_lengths.end(), 0);
      std::fill(call.query_segments.begin(), call.query_segments.end(), 50);
      std::fill(call.bias.begin(), call.bias.end(), -std::numeric_limits<float>::infinity());
      call.run();
      for (const float x : call.out) ASSERT_EQ(x, 0);
      for (const float x : call.gradient) ASSERT_EQ(x, 0);
      for (const float x : call.dbias) ASSERT_EQ(x, 0);
      for (const float x : call.log_sum_exp) ASSERT_EQ(x, -std::numeric_limits<float>::infinity());
    }
}

TEST(AttentionMasks, DoNotDependOnTheNumberOfThreads) {
  for (const AttentionKind& kind : attention_kinds) {
    SCOPED_TRACE(kind.name);
    AttentionCase c{.batch = 2, .query_length = 150, .key_length = 150, .heads = 2, .kv_heads = 1, .head_dims = 8};
    c.bias = {0, 1, 0, 1}, c.buckets = 16;
    kind.apply(c);
    AttentionCall<float> one(c);
    with_threads(1, [&] { one.run(); });
    for (const int threads : {2, 3}) {
      AttentionCall<float> many(c);
      with_threads(threads, [&] { many.run(); });
      EXPECT_TRUE(same_bits(one.out, many.out));
      EXPECT_TRUE(same_bits(one.gradient, many.gradient));
      EXPECT_TRUE(same_bits(one.dbias, many.dbias));
      EXPECT_TRUE(same_bits(one.drelative_bias, many.drelative_bias));
    }
  }
}

}  // namespace
