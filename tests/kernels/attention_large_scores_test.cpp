// Scores so large that the logarithm of their sum is lost beside them in one number.
#include <gtest/gtest.h>

#include <kernels/attention_reference.hpp>

namespace {

using namespace remat;
using namespace remat_test;

template <class T>
class LargeScores : public testing::Test {
 public:
  static constexpr bool is_rounded = std::is_same_v<T, bfloat16>;
};
using Types = testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(LargeScores, Types);

// Whole rows under one large bias share as they do without it: queries are 0, so that float holds every score.
TYPED_TEST(LargeScores, ABiasOfAWholeRowChangesNothing) {
  constexpr Index length = 67;
  const double lowest = static_cast<double>(std::numeric_limits<float>::lowest());
  for (const double dropout : {0.0, 0.3})
    for (const double mask : {0.0, 30.0, 1e3, 1e6, -1e4, -1e9, lowest}) {
      SCOPED_TRACE(testing::Message() << "bias " << mask << ", dropout " << dropout);
      const AttentionCase c{.batch = 1,
                            .query_length = length,
                            .key_length = length,
                            .head_dims = 8,
                            .causal = false,
                            .dropout = dropout,
                            .bias = {0, 0, 0, 1}};
      AttentionCall<TypeParam> a(c);
      AttentionCall<double> expected(c);
      for (std::size_t i = 0; i < a.input.size(); ++i) expected.input[i] = static_cast<double>(a.input[i]);
      for (std::size_t i = 0; i < a.dout.size(); ++i) expected.dout[i] = static_cast<double>(a.dout[i]);
      for (Index i = 0; i < a.k_at; ++i) a.input[count(i)] = TypeParam(0.0F), expected.input[count(i)] = 0;
      const double whole = std::abs(mask) < 1e7 ? 1 : 0;  // beyond, nothing that is added to it is left
      for (Index s = 0; s < length; ++s) {
        expected.bias[count(s)] = mask + whole * static_cast<double>(s % 3);
        a.bias[count(s)] = static_cast<remat::Accum<TypeParam>>(expected.bias[count(s)]);
      }
      a.run(), naive(expected);
      const double least = this->is_rounded ? 1e-2 : 2e-6;
      EXPECT_LE(distance(a.out, expected.out), least);
      EXPECT_LE(distance(a.gradient, expected.gradient), least);
      // Of one key over all queries: many roundings of out and dout in one sum.
      EXPECT_LE(distance(a.dbias, expected.dbias), this->is_rounded ? 5e-2 : 1e-5);
    }
}

// The same without a bias, where bfloat16 has products of its own: every score is 2^20.
TYPED_TEST(LargeScores, EqualProductsShareAlike) {
  constexpr Index length = 300;
  const AttentionCase c{.batch = 1,
                        .query_length = length,
                        .key_length = length,
                        .heads = 1,
                        .kv_heads = 1,
                        .head_dims = 1,
                        .causal = false};
  AttentionCall<TypeParam> a(c);
  AttentionCall<double> expected(c);
  for (Index i = 0; i < a.v_at; ++i) a.input[count(i)] = TypeParam(1024.0F), expected.input[count(i)] = 1024;
  for (Index i = a.v_at; i < 3 * length; ++i) expected.input[count(i)] = static_cast<double>(a.input[count(i)]);
  for (std::size_t i = 0; i < a.dout.size(); ++i) expected.dout[i] = static_cast<double>(a.dout[i]);
  a.run(), naive(expected);
  EXPECT_LE(distance(a.out, expected.out), this->is_rounded ? 1e-2 : 2e-6);
  for (Index i = a.v_at; i < 3 * length; ++i)
    ASSERT_NEAR(static_cast<double>(a.gradient[count(i)]), expected.gradient[count(i)], this->is_rounded ? 1e-3 : 1e-6);
}

// Probabilities are made again in backward from scores with the bits that they had: those of a row sum to 1 however
// large its scores are, here to the last digits of dv.
TYPED_TEST(LargeScores, ProbabilitiesOfARowSumToOne) {
  constexpr Index length = 70;
  AttentionCall<TypeParam> a(
      {.batch = 1, .query_length = length, .key_length = length, .heads = 1, .kv_heads = 1, .head_dims = 5});
  for (Index i = 0; i < a.k_at; ++i) a.input[count(i)] = a.input[count(i)] * TypeParam(3000.0F);
  std::fill(a.dout.begin(), a.dout.end(), TypeParam(1.0F));
  a.run();
  double sum = 0;
  for (Index i = a.v_at; i < 3 * length * 5; ++i) sum += static_cast<double>(a.gradient[count(i)]);
  EXPECT_NEAR(sum, 5.0 * length, this->is_rounded ? 1 : 5e-4);
}

}  // namespace
