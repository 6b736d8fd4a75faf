// Attention in bfloat16 against the formula in double on the same rounded operands. Whether tiles are multiplied as
// bfloat16 or widened is up to the machine: all of this holds either way.
#include <gtest/gtest.h>

#include <kernels/attention_reference.hpp>

namespace {

using namespace remat;
using namespace remat_test;

using Case = AttentionCase;
using Call = AttentionCall<bfloat16>;

/// What one rounding to bfloat16 may change, relatively.
constexpr double rounding = 0x1p-8;

/// One problem for both.
void copy_operands(const Call& from, AttentionCall<double>& to) {
  for (std::size_t i = 0; i < from.input.size(); ++i) to.input[i] = static_cast<double>(from.input[i]);
  for (std::size_t i = 0; i < from.dout.size(); ++i) to.dout[i] = static_cast<double>(from.dout[i]);
}

/// The result is rounded, and so are probabilities before they weigh values: two roundings. So are gradients, and what
/// they are products of. Turned queries and keys are rounded too, which shifts their scores.
void check(const Case& c) {
  SCOPED_TRACE(testing::Message() << "B " << c.batch << " T " << c.query_length << " S " << c.key_length << " N "
                                  << c.heads << " K " << c.kv_heads << " H " << c.head_dims << " causal " << c.causal);
  Call actual(c);
  AttentionCall<double> expected(c);
  copy_operands(actual, expected);
  naive(expected);
  actual.run();
  const double roundings = (c.rotary_base > 0 ? 4 : 2) * rounding;
  EXPECT_LE(distance(actual.out, expected.out, 1), roundings);
  EXPECT_LE(distance(actual.log_sum_exp, expected.log_sum_exp, 1), c.rotary_base > 0 ? rounding : 1e-6);
  EXPECT_LE(distance(actual.gradient, expected.gradient, 1), roundings);
  EXPECT_LE(distance(actual.dbias, expected.dbias, 1), roundings);
  EXPECT_LE(distance(actual.drelative_bias, expected.drelative_bias, 1), roundings);
}

TEST(AttentionBfloat16, IsTheFormulaAroundEveryTile) {
  for (const Index length : {1, 7, 15, 17, 63, 65, 127, 128, 129, 255, 256, 257, 259, 515})
    for (const bool causal : {false, true})
      check({.batch = 1, .query_length = length, .key_length = length, .head_dims = 40, .causal = causal});
}

TEST(AttentionBfloat16, IsTheFormulaAtEveryHeadWidth) {
  for (const Index width : {1, 5, 16, 32, 64, 80, 128})
    check({.batch = 1, .query_length = 131, .key_length = 131, .head_dims = width});
}

TEST(AttentionBfloat16, IsTheFormulaForEveryOption) {
  for (const AttentionKind& kind : attention_kinds)
    for (const bool causal : {false, true})
      for (const auto& [queries, keys] : {std::pair<Index, Index>{300, 300}, {5, 270}, {270, 70}, {1, 33}})
        for (const auto& [query_chunk, key_chunk] : {std::pair<Index, Index>{0, 0}, {20, 150}}) {
          SCOPED_TRACE(kind.name);
          Case c{.batch = 3, .query_length = queries, .key_length = keys, .heads = 2, .kv_heads = 1, .head_dims = 8};
          c.causal = causal, c.offset = keys - queries;
          c.query_chunk = query_chunk, c.key_chunk = key_chunk;
          kind.apply(c);
          check(c);
        }
}

TEST(AttentionBfloat16, TakesOptionsTogether) {
  for (const bool fused : {false, true})
    for (const Index heads : {2, 4}) {
      Case c{.batch = 2, .query_length = 300, .key_length = 300, .heads = heads, .kv_heads = 2, .head_dims = 16};
      c.fused = fused, c.window = 150, c.padding = c.prefix = true, c.dropout = 0.2;
      check(c);
      c.rotary_base = 10000, c.key_position = 1000;
      check(c);
    }
}

TEST(AttentionBfloat16, TakesAScaleThatIsNotPositive) {
  for (const double scale : {0.0, -0.5}) {
    const Case c{.query_length = 70, .key_length = 70};
    Call actual(c);
    AttentionCall<double> expected(c);
    copy_operands(actual, expected);
    actual.problem.scale = expected.problem.scale = scale;
    naive(expected), actual.run();
    EXPECT_LE(distance(actual.out, expected.out, 1), 2 * rounding);
    EXPECT_LE(distance(actual.gradient, expected.gradient, 1), 2 * rounding);
  }
}

TEST(AttentionBfloat16, TakesEmptyAxes) {
  check({.batch = 0});
  check({.query_length = 0});
  check({.key_length = 0});
  check({.head_dims = 0});
  check({.heads = 0, .kv_heads = 0});
}

TEST(AttentionBfloat16, DropsTheSameElementsInAnyChunks) {
  // Equal scores; values and gradients of the context are rows of the identity: the context of query t is its row of
  // weights, the gradient of value s its column.
  constexpr Index length = 300;
  struct Way {
    Index query_chunk, key_chunk, window;
  };
  for (const auto& [query_chunk, key_chunk, window] :
       {Way{0, 0, 300}, {0, 0, 90}, {7, 9, 300}, {7, 9, 90}, {64, 64, 300}, {100, 130, 90}, {1000, 1000, 300}}) {
    Case c{.batch = 1, .query_length = length, .key_length = length, .heads = 1, .kv_heads = 1, .head_dims = length};
    c.causal = false, c.dropout = 0.3, c.query_chunk = query_chunk, c.key_chunk = key_chunk, c.window = window;
    Call call(c);
    std::fill(call.input.begin(), call.input.end(), bfloat16(0.0F));
    std::fill(call.dout.begin(), call.dout.end(), bfloat16(0.0F));
    for (Index i = 0; i < length; ++i)
      call.input[count(call.v_at + i * length + i)] = call.dout[count(i * length + i)] = bfloat16(1.0F);
    call.run();
    const auto& mask = call.problem.dropout;
    for (Index t = 0; t < length; ++t)
      for (Index s = 0; s < length; ++s) {
        const auto at = static_cast<std::uint64_t>(t * length + s);
        const bool kept = std::abs(t - s) < window && mask.factor<float>(at) != 0;
        ASSERT_EQ(static_cast<float>(call.out[count(t * length + s)]) != 0, kept) << t << " " << s;
        ASSERT_EQ(static_cast<float>(call.gradient[count(call.v_at + s * length + t)]) != 0, kept) << t << " " << s;
      }
  }
}

TEST(AttentionBfloat16, DoesNotDependOnTheNumberOfThreads) {
  for (const AttentionKind& kind : attention_kinds)
    for (const Index batch : {1, 3}) {  // either side of the switch between the two backward passes
      SCOPED_TRACE(kind.name);
      Case c{.batch = batch, .query_length = 300, .key_length = 300, .heads = 4, .kv_heads = 2, .head_dims = 24};
      c.dropout = 0.1;
      kind.apply(c);
      Call one(c);
      with_threads(1, [&] { one.run(); });
      for (const int threads : {2, 3}) {
        Call many(c);
        with_threads(threads, [&] { many.run(); });
        EXPECT_TRUE(same_bits(one.out, many.out));
        EXPECT_TRUE(same_bits(one.log_sum_exp, many.log_sum_exp));
        EXPECT_TRUE(same_bits(one.gradient, many.gradient));
      }
      Call nested(c);
#pragma omp parallel num_threads(2)
      {
#pragma omp single
        nested.run();
      }
      EXPECT_TRUE(same_bits(one.gradient, nested.gradient));
    }
}

TEST(AttentionBfloat16, DoesNotLeakNaNFromMaskedPlaces) {
  // Token 140 is NaN, or infinite, in q, k, v and dout: only queries from 140 on, and keys up to it, may notice.
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const double rotary_base : {0.0, 100.0})
      for (const Index heads : {1, 8}) {
        Case c{.batch = 1, .query_length = 400, .key_length = 400, .heads = heads, .kv_heads = heads, .head_dims = 8};
        c.fused = true, c.rotary_base = rotary_base, c.window = 100;
        Call clean(c), dirty(c);
        const Index width = dirty.problem.q_token, out_width = dirty.problem.out_token;
        std::fill_n(dirty.input.begin() + 140 * width, width, bfloat16(odd));
        std::fill_n(dirty.dout.begin() + 140 * out_width, out_width, bfloat16(odd));
        clean.run(), dirty.run();
        for (Index t = 0; t < 400; ++t) {
          const bool notices = 140 <= t && t < 240;
          for (Index i = 0; i < out_width; ++i) {
            const auto x = static_cast<float>(dirty.out[count(t * out_width + i)]);
            if (notices)
              ASSERT_TRUE(!std::isfinite(x) || std::isinf(odd)) << t;
            else
              ASSERT_NEAR(x, static_cast<float>(clean.out[count(t * out_width + i)]), 2 * rounding) << t;
          }
          if (41 <= t && t < 240) continue;  // their queries or keys meet the odd ones
          for (Index i = 0; i < width; ++i) {
            const auto x = static_cast<float>(dirty.gradient[count(t * width + i)]);
            ASSERT_NEAR(x, static_cast<float>(clean.gradient[count(t * width + i)]), 2 * rounding) << t;
          }
        }
      }
}

TEST(AttentionBfloat16, KeepsNaNQueriesAwayFromKeysTheyDoNotSee) {
  for (const Index heads : {1, 8}) {
    const Case c{.batch = 1, .query_length = 100, .key_length = 100, .heads = heads, .kv_heads = heads};
    Call clean(c), dirty(c);
    const Index width = dirty.problem.q_token;
    std::fill_n(dirty.input.begin() + 40 * width, width, std::numeric_limits<bfloat16>::quiet_NaN());
    clean.run(), dirty.run();
    for (const Index start : {dirty.k_at, dirty.v_at})
      for (Index s = 0; s < 100; ++s)
        for (Index i = 0; i < width; ++i) {
          const auto at = count(start + s * width + i);
          const auto x = static_cast<float>(dirty.gradient[at]), y = static_cast<float>(clean.gradient[at]);
          if (s <= 40)
            ASSERT_TRUE(std::isnan(x));
          else
            ASSERT_NEAR(x, y, 2 * rounding * std::max(1.0F, std::abs(y)));
        }
  }
}

TEST(AttentionBfloat16, IsTheSameWhateverPaddingHolds) {
  Case c{.batch = 3, .query_length = 300, .key_length = 300, .heads = 2, .kv_heads = 1};
  c.causal = false, c.padding = true;
  Call clean(c), dirty(c);
  for (const Index start : {dirty.k_at, dirty.v_at})
    for (Index b = 0; b < 3; ++b)
      for (Index s = dirty.key_lengths[count(b)]; s < 300; ++s)
        std::fill_n(dirty.input.begin() + start + b * dirty.problem.k_batch + s * dirty.problem.k_token,
                    dirty.problem.k_token, std::numeric_limits<bfloat16>::quiet_NaN());
  clean.run(), dirty.run();
  EXPECT_TRUE(same_bits(clean.out, dirty.out));
  EXPECT_TRUE(same_bits(clean.gradient, dirty.gradient));
}

TEST(AttentionBfloat16, GivesZerosToAQueryThatSeesNothing) {
  Call call({.batch = 1, .query_length = 70, .key_length = 90, .heads = 2, .kv_heads = 2, .offset = -66});
  call.run();
  const auto& p = call.problem;
  for (Index t = 0; t < 66; ++t)
    for (Index n = 0; n < 2; ++n) {
      EXPECT_EQ(call.log_sum_exp[count(n * 70 + t)], -std::numeric_limits<float>::infinity());
      for (Index i = 0; i < p.head_dims; ++i) {
        EXPECT_EQ(static_cast<float>(call.out[count(t * p.out_token + n * p.head_dims + i)]), 0);
        EXPECT_EQ(static_cast<float>(call.gradient[count(t * p.q_token + n * p.head_dims + i)]), 0);
      }
    }
  for (const bfloat16 x : call.gradient) ASSERT_TRUE(std::isfinite(static_cast<float>(x)));
}

TEST(AttentionBfloat16, AddsToGradientsAndLeavesUnwantedOnesAlone) {
  for (const Index heads : {2, 8}) {
    const Case c{.batch = 1, .query_length = 300, .key_length = 300, .heads = heads, .kv_heads = heads};
    Call all(c);
    all.run();
    for (int wanted = 0; wanted < 8; ++wanted) {
      Call some(c);
      some.forward();
      auto to = some.gradients();
      if ((wanted & 1) == 0) to.q = nullptr;
      if ((wanted & 2) == 0) to.k = nullptr;
      if ((wanted & 4) == 0) to.v = nullptr;
      to.add_q = to.add_k = to.add_v = true;
      std::fill(some.gradient.begin(), some.gradient.end(), bfloat16(2.0F));
      some.backward(to);
      const Index ends[] = {0, some.k_at, some.v_at, static_cast<Index>(some.gradient.size())};
      for (int part = 0; part < 3; ++part)
        for (Index i = ends[part]; i < ends[part + 1]; ++i) {
          const auto x = static_cast<double>(some.gradient[count(i)]), y = static_cast<double>(all.gradient[count(i)]);
          if ((wanted >> part & 1) != 0)
            ASSERT_NEAR(x, 2 + y, rounding * (std::abs(2 + y) + std::abs(y)) + 1e-6);
          else
            ASSERT_EQ(x, 2);
        }
    }
  }
}

TEST(AttentionBfloat16, ComputesNoBlockInVain) {
  for (const auto& [query_chunk, key_chunk] : {std::pair<Index, Index>{40, 33}, {64, 64}, {150, 40}, {200, 150}})
    for (const Index window : {0, 70}) {
      Case c{.batch = 1, .query_length = 250, .key_length = 250, .heads = 1, .kv_heads = 1};
      c.query_chunk = query_chunk, c.key_chunk = key_chunk, c.window = window, c.padding = true;
      Call call(c);
      const auto forward = multiplied_blocks(call, query_chunk, key_chunk, [](Call& of) { of.forward(); });
      if (forward[0] == 0) GTEST_SKIP() << "products of bfloat16 leave no trace of an overflow on this machine";
      call.forward();
      const auto backward =
          multiplied_blocks(call, query_chunk, key_chunk, [](Call& of) { of.backward(of.gradients()); });
      const AttentionCall<double> rules_of(c);
      const auto seen = NaiveRules{rules_of.problem}.seen_blocks(query_chunk, key_chunk);
      EXPECT_EQ(forward, seen);
      EXPECT_EQ(backward, seen);
    }
}

}  // namespace
