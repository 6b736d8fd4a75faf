// The fused attention against the formula written out in double.
#include <gtest/gtest.h>
#include <omp.h>

#include <kernels/attention_reference.hpp>

namespace {

using namespace remat;
using namespace remat_test;

using Case = AttentionCase;
template <class T>
using Attention = AttentionCall<T>;

/// Double agrees with the formula to 1e-12, float with double to 2e-6.
void check(const Case& c) {
  SCOPED_TRACE(testing::Message() << "B " << c.batch << " T " << c.query_length << " S " << c.key_length << " N "
                                  << c.heads << " K " << c.kv_heads << " H " << c.head_dims << " causal " << c.causal
                                  << " offset " << c.offset << " dropout " << c.dropout << " fused " << c.fused);
  Attention<double> expected(c), actual(c);
  naive(expected);
  actual.run();
  EXPECT_LE(distance(actual.out, expected.out), 1e-12);
  EXPECT_LE(distance(actual.log_sum_exp, expected.log_sum_exp), 1e-12);
  EXPECT_LE(distance(actual.gradient, expected.gradient), 1e-12);
  Attention<float> single(c);
  single.run();
  EXPECT_LE(distance(single.out, expected.out, 1), 2e-6);
  EXPECT_LE(distance(single.log_sum_exp, expected.log_sum_exp, 1), 2e-6);
  EXPECT_LE(distance(single.gradient, expected.gradient, 1), 2e-6);
}

TEST(Attention, IsTheFormulaAtEveryLength) {
  for (const Index length : {1, 7, 63, 64, 65, 131})
    for (const bool causal : {false, true}) check({.query_length = length, .key_length = length, .causal = causal});
}

TEST(Attention, IsTheFormulaAtEveryHeadWidth) {
  for (const Index width : {1, 5, 16, 32, 40, 64, 80})
    for (const bool causal : {false, true})
      check({.batch = 1, .query_length = 67, .key_length = 67, .head_dims = width, .causal = causal});
}

TEST(Attention, GroupsQueryHeadsOverKeyHeads) {
  for (const Index kv_heads : {8, 2, 1})
    for (const bool causal : {false, true})
      for (const Index batch : {1, 5})  // either side of the switch between the two backward passes
        check(
            {.batch = batch, .query_length = 70, .key_length = 70, .heads = 8, .kv_heads = kv_heads, .causal = causal});
}

TEST(Attention, TakesUnequalLengthsByPosition) {
  for (const Index heads : {1, 8})
    for (const auto& [queries, keys] : {std::pair<Index, Index>{1, 130}, {5, 64}, {64, 100}, {70, 200}, {131, 65}})
      for (const Index offset : {keys - queries, Index{0}, Index{3}, Index{-2}, Index{-70}})
        check({.batch = 1,
               .query_length = queries,
               .key_length = keys,
               .heads = heads,
               .kv_heads = heads,
               .offset = offset});
}

TEST(Attention, ReadsAFusedProjectionInPlace) {
  for (const Index kv_heads : {4, 2, 1})
    check({.query_length = 70, .key_length = 70, .heads = 4, .kv_heads = kv_heads, .head_dims = 24, .fused = true});
}

TEST(Attention, DropsByTheMaskOfTheElementsCoordinate) {
  for (const Index batch : {1, 5})
    for (const Index length : {3, 64, 70, 131})  // rows that start on a Philox block, and rows that do not
      for (const bool causal : {false, true})
        check({.batch = batch,
               .query_length = length,
               .key_length = length,
               .heads = 4,
               .causal = causal,
               .dropout = 0.3});
}

TEST(Attention, DropsTheShareItWasAsked) {
  // Equal scores and values of one: a row's output is the share it kept, over 1 - rate.
  Attention<float> a({.batch = 1,
                      .query_length = 200,
                      .key_length = 500,
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dims = 1,
                      .causal = false,
                      .dropout = 0.25});
  std::fill(a.input.begin(), a.input.begin() + a.v_at, 0.0F);
  std::fill(a.input.begin() + a.v_at, a.input.end(), 1.0F);
  a.forward();
  double mean = 0;
  for (const float x : a.out) mean += static_cast<double>(x) / 200;
  EXPECT_NEAR(mean, 1, 5 * std::sqrt(0.25 / 0.75 / (200 * 500)));
}

TEST(Attention, DoesNotDependOnTheNumberOfThreads) {
  for (const Case& c : {Case{.batch = 1,
                       .query_length = 300,
                       .key_length = 300,
                       .heads = 4,
                       .kv_heads = 1,
                       .head_dims = 32,
                       .dropout = 0.1},
                        Case{.batch = 3,
                        .query_length = 150,
                        .key_length = 150,
                        .heads = 8,
                        .kv_heads = 4,
                        .head_dims = 20,
                        .dropout = 0.1}}) {
    Attention<float> one(c), again(c);
    with_threads(1, [&] { one.run(), again.run(); });
    EXPECT_TRUE(same_bits(one.out, again.out) && same_bits(one.gradient, again.gradient));
    for (const int threads : {2, 3}) {
      Attention<float> many(c);
      with_threads(threads, [&] { many.run(); });
      EXPECT_TRUE(same_bits(one.out, many.out)) << threads;
      EXPECT_TRUE(same_bits(one.log_sum_exp, many.log_sum_exp)) << threads;
      EXPECT_TRUE(same_bits(one.gradient, many.gradient)) << threads;
    }
    Attention<float> nested(c);
#pragma omp parallel num_threads(2)
    {
#pragma omp single
      nested.run();
    }
    EXPECT_TRUE(same_bits(one.gradient, nested.gradient));
  }
}

TEST(Attention, GivesZerosToAQueryThatSeesNothing) {
  for (const Index heads : {1, 8}) {
    Attention<float> a(
        {.batch = 1, .query_length = 70, .key_length = 90, .heads = heads, .kv_heads = heads, .offset = -66});
    a.run();
    const auto& p = a.problem;
    for (Index t = 0; t < 66; ++t)
      for (Index n = 0; n < heads; ++n) {
        EXPECT_EQ(a.log_sum_exp[count(n * 70 + t)], -std::numeric_limits<float>::infinity());
        for (Index i = 0; i < p.head_dims; ++i) {
          EXPECT_EQ(a.out[count(t * p.out_token + n * p.head_dims + i)], 0);
          EXPECT_EQ(a.gradient[count(t * p.q_token + n * p.head_dims + i)], 0);
        }
      }
    for (const float x : a.gradient) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(Attention, DoesNotLeakNaNFromMaskedPlaces) {
  // Token 40 is NaN in q, k, v and dout: only queries from 40 on may notice.
  for (const Index heads : {1, 8}) {
    const Case c{.batch = 1, .query_length = 100, .key_length = 100, .heads = heads, .kv_heads = heads, .fused = true};
    Attention<float> clean(c), dirty(c);
    const Index width = dirty.problem.q_token, out_width = dirty.problem.out_token;
    std::fill_n(dirty.input.begin() + 40 * width, width, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(dirty.dout.begin() + 40 * out_width, out_width, std::numeric_limits<float>::quiet_NaN());
    clean.run(), dirty.run();
    for (Index t = 0; t < 100; ++t)
      for (Index i = 0; i < out_width; ++i) {
        const auto at = count(t * out_width + i), q_at = count(t * width + i);
        if (t < 40) {
          EXPECT_NEAR(dirty.out[at], clean.out[at], 1e-6);
          EXPECT_NEAR(dirty.gradient[q_at], clean.gradient[q_at], 1e-5);
        } else {
          EXPECT_TRUE(std::isnan(dirty.out[at]));
          EXPECT_TRUE(std::isnan(dirty.gradient[q_at]));
        }
      }
  }
}

TEST(Attention, KeepsNaNQueriesAwayFromKeysTheyDoNotSee) {
  for (const Index heads : {1, 8}) {
    const Case c{.batch = 1, .query_length = 100, .key_length = 100, .heads = heads, .kv_heads = heads};
    Attention<float> clean(c), dirty(c);
    const Index width = dirty.problem.q_token;
    std::fill_n(dirty.input.begin() + 40 * width, width, std::numeric_limits<float>::quiet_NaN());
    clean.run(), dirty.run();
    for (const Index start : {dirty.k_at, dirty.v_at})
      for (Index s = 0; s < 100; ++s)
        for (Index i = 0; i < width; ++i) {
          const auto at = count(start + s * width + i);
          if (s <= 40) {
            EXPECT_TRUE(std::isnan(dirty.gradient[at]));
          } else {
            EXPECT_NEAR(dirty.gradient[at], clean.gradient[at], 1e-5);
          }
        }
  }
}

TEST(Attention, NeverReadsKeysThatNobodySees) {
  const Case c{.batch = 1, .query_length = 10, .key_length = 200, .fused = false};
  Attention<float> clean(c), dirty(c);
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  const Index width = dirty.problem.k_token;
  std::fill(dirty.input.begin() + dirty.k_at + 10 * width, dirty.input.begin() + dirty.v_at, nan);
  std::fill(dirty.input.begin() + dirty.v_at + 10 * width, dirty.input.end(), nan);
  clean.run(), dirty.run();
  EXPECT_TRUE(same_bits(clean.out, dirty.out));
  EXPECT_LE(distance(dirty.gradient, clean.gradient), 1e-6);
}

TEST(Attention, SurvivesLargeScores) {
  Case c{.batch = 1, .query_length = 70, .key_length = 70, .head_dims = 8};
  Attention<float> a(c);
  Attention<double> expected(c);
  for (Index i = 0; i < a.k_at; ++i) a.input[count(i)] *= 300, expected.input[count(i)] *= 300;
  a.run(), naive(expected);
  EXPECT_LE(distance(a.out, expected.out), 2e-4);  // scores near 1000 carry an error of 1e-4 in float
  for (const float x : a.gradient) ASSERT_TRUE(std::isfinite(x));
}

TEST(Attention, LeavesUnwantedGradientsAlone) {
  for (const Index heads : {2, 8}) {
    const Case c{.batch = 1, .query_length = 70, .key_length = 70, .heads = heads, .kv_heads = heads};
    Attention<float> all(c);
    all.run();
    for (int wanted = 0; wanted < 8; ++wanted) {
      Attention<float> some(c);
      some.forward();
      auto to = some.gradients();
      if ((wanted & 1) == 0) to.q = nullptr;
      if ((wanted & 2) == 0) to.k = nullptr;
      if ((wanted & 4) == 0) to.v = nullptr;
      some.backward(to);
      const Index ends[] = {0, some.k_at, some.v_at, static_cast<Index>(some.gradient.size())};
      for (int part = 0; part < 3; ++part)
        for (Index i = ends[part]; i < ends[part + 1]; ++i) {
          if ((wanted >> part & 1) != 0) {
            EXPECT_NEAR(some.gradient[count(i)], all.gradient[count(i)], 1e-5);
          } else {
            EXPECT_TRUE(std::isnan(some.gradient[count(i)]));
          }
        }
    }
  }
}

TEST(Attention, TakesEmptyAxes) {
  for (const Index heads : {1, 8})
    for (const bool causal : {false, true}) {
      check({.batch = 0, .heads = heads, .kv_heads = heads, .causal = causal});
      check({.query_length = 0, .heads = heads, .kv_heads = heads, .causal = causal});
      check({.key_length = 0, .heads = heads, .kv_heads = heads, .causal = causal});
      check({.heads = heads, .kv_heads = heads, .head_dims = 0, .causal = causal});
    }
  check({.heads = 0, .kv_heads = 0});
}

TEST(Attention, ScratchIsTilesOnly) {
  // Beyond inputs and outputs, with d 64 and one head: published 17 and 64 MB at 16384.
  const auto bytes = [](Index length, Index chunk, bool all) {
    remat::kernels::AttentionProblem<float> p;
    p.batch = 1, p.query_length = p.key_length = length, p.head_dims = 64;
    p.query_chunk = p.key_chunk = chunk;
    if (all) p.soft_cap = 30, p.rotary_base = 10000, p.buckets = 32;
    std::pair<std::size_t, std::size_t> bytes;
    with_threads(2, [&] { bytes = {attention_forward_scratch(p), attention_backward_scratch(p)}; });
    return bytes;
  };
  for (const bool all : {false, true})
    for (const Index chunk : {0, 1, 100, 4096}) {
      const auto [forward, backward] = bytes(16384, chunk, all);
      EXPECT_LE(forward, std::size_t{1} << 20);
      EXPECT_LE(backward, std::size_t{8} << 20);
      const auto [forward_8, backward_8] = bytes(131072, chunk, all);
      EXPECT_EQ(forward_8, forward);  // of the length there is nothing in it
      EXPECT_LE(backward_8, 8 * backward);
    }
}

TEST(Attention, IsAsExactAsPublished) {
  // Rabe and Staats (2021) differ from the formula by 1.8e-7 on standard normal input.
  for (const bool causal : {false, true}) {
    Case c{.batch = 1, .query_length = 2048, .key_length = 2048, .heads = 1, .kv_heads = 1, .head_dims = 64};
    c.causal = causal;
    Attention<float> single(c);
    Attention<double> twice(c);
    single.forward(), twice.forward();
    double error = 0;
    for (std::size_t i = 0; i < twice.out.size(); ++i)
      error = std::max(error, std::abs(static_cast<double>(single.out[i]) - twice.out[i]));
    EXPECT_LE(error, causal ? 1e-6 : 2e-7);
  }
}

TEST(Attention, DrawsTheSameMaskInPiecesAndChunks) {
  const Case c{.batch = 2, .query_length = 150, .key_length = 150, .heads = 2, .kv_heads = 1, .dropout = 0.3};
  Attention<double> whole(c);
  whole.run();
  for (const Index query_chunk : {7, 64, 100, 1000})
    for (const Index key_chunk : {9, 64, 130}) {
      Case chunked = c;
      chunked.query_chunk = query_chunk, chunked.key_chunk = key_chunk;
      Attention<double> same(chunked);
      same.run();
      EXPECT_LE(distance_of_calls(same, whole), 1e-12);
    }
  // Queries in pieces, each added to the gradients of keys and values that the one before left.
  Attention<double> pieces(c);
  std::fill(pieces.gradient.begin(), pieces.gradient.end(), 0.0);
  for (const auto& [begin, end] : {std::pair<Index, Index>{0, 40}, {40, 127}, {127, 150}}) {
    Case piece_case = c;
    piece_case.query_length = end - begin, piece_case.offset = begin;
    Attention<double> piece(piece_case);
    auto& p = piece.problem;
    p.dropout_first_query = begin, p.dropout_query_length = 150;
    p.q_batch = pieces.problem.q_batch, p.out_batch = pieces.problem.out_batch;
    AlignedVector<std::byte> scratch(std::max(attention_forward_scratch(p), attention_backward_scratch(p)));
    const Index q_at = begin * p.q_token, out_at = begin * p.out_token;
    AlignedVector<double> log_sum_exp(count(2 * 2 * (end - begin)));
    const double *q = pieces.input.data() + q_at, *k = pieces.input.data() + pieces.k_at;
    const double* v = pieces.input.data() + pieces.v_at;
    attention_forward(p, q, k, v, pieces.out.data() + out_at, log_sum_exp.data(), scratch.data());
    double* to = pieces.gradient.data();
    attention_backward(
        p, q, k, v, static_cast<const double*>(pieces.out.data()) + out_at,
        static_cast<const double*>(log_sum_exp.data()), static_cast<const double*>(pieces.dout.data()) + out_at,
        {.q = to + q_at, .k = to + pieces.k_at, .v = to + pieces.v_at, .add_k = true, .add_v = true}, scratch.data());
  }
  EXPECT_LE(distance(pieces.out, whole.out), 1e-12);
  EXPECT_LE(distance(pieces.gradient, whole.gradient), 1e-12);
}

TEST(Attention, AddsToGradientsWhereItIsAsked) {
  for (const Index heads : {1, 8}) {
    Case c{.batch = 2, .query_length = 70, .key_length = 200, .heads = heads, .kv_heads = heads};
    c.bias = {0, 1, 1, 1}, c.buckets = 8;  // keys from 70 on are seen by nobody
    Attention<double> alone(c), added(c);
    alone.run(), added.forward();
    auto to = added.gradients();
    to.add_q = to.add_k = to.add_v = to.add_bias = to.add_relative_bias = true;
    for (auto* each : {&added.gradient, &added.dbias, &added.drelative_bias})
      std::fill(each->begin(), each->end(), 3.0);
    // Keys that nobody sees: not even touched.
    const Index width = added.problem.k_token;
    const auto nobody = [&](auto& x) { return x.gradient.begin() + x.k_at + 140 * width; };
    std::fill_n(nobody(added), 60 * width, -0.0);  // plus 0 it would lose its sign
    added.backward(to);
    for (Index i = 0; i < 60 * width; ++i) ASSERT_TRUE(std::signbit(nobody(added)[i]) && nobody(alone)[i] == 0);
    std::fill_n(nobody(added), 60 * width, 3.0);
    for (auto* each : {&added.gradient, &added.dbias, &added.drelative_bias})
      for (double& x : *each) x -= 3;
    EXPECT_LE(distance_of_calls(added, alone), 1e-12);
  }
}

}  // namespace
