#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <core/expect_error.hpp>
#include <cstdint>
#include <kernels/with_each_backend.hpp>
#include <limits>
#include <remat/core/eigen.hpp>
#include <remat/core/random.hpp>
#include <remat/kernels/gemm.hpp>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace {

using remat::bfloat16;
using remat::Index;
using remat::kernels::Batch;
using remat::kernels::Gemm;
using remat::kernels::Trans;
using remat_test::with_each_backend;

template <class T>
std::vector<T> random_values(Index count, std::uint64_t seed) {
  std::vector<T> values(static_cast<std::size_t>(count));
  const remat::RandomStream stream{.seed = seed};
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(stream.uniform(i) - 0.5F);
  return values;
}

template <class T>
T at(const std::vector<T>& values, Index i) {
  return values[static_cast<std::size_t>(i)];
}

// Operands in rows with `gap` unused elements at the end.
template <class T>
struct Case {
  Gemm shape;
  std::vector<T> a, b, c, bias;

  Case(Trans ta, Trans tb, Index m, Index n, Index k, Index gap, bool accumulate)
      : shape{.a = ta, .b = tb, .m = m, .n = n, .k = k, .accumulate = accumulate} {
    const Index rows_a = ta == Trans::no ? m : k, columns_a = ta == Trans::no ? k : m;
    const Index rows_b = tb == Trans::no ? k : n, columns_b = tb == Trans::no ? n : k;
    shape.lda = columns_a + gap, shape.ldb = columns_b + gap, shape.ldc = n + gap;
    a = random_values<T>(rows_a * shape.lda, 1);
    b = random_values<T>(rows_b * shape.ldb, 2);
    c = random_values<T>(m * shape.ldc, 3);
    bias = random_values<T>(n, 4);
  }
  T a_at(Index i, Index p) const { return at(a, shape.a == Trans::no ? i * shape.lda + p : p * shape.lda + i); }
  T b_at(Index p, Index j) const { return at(b, shape.b == Trans::no ? p * shape.ldb + j : j * shape.ldb + p); }

  double expected(Index i, Index j, bool with_bias) const {
    double sum = (shape.accumulate ? at(c, i * shape.ldc + j) : T{0}) + (with_bias ? double{at(bias, j)} : 0.0);
    for (Index p = 0; p < shape.k; ++p) sum += double{a_at(i, p)} * double{b_at(p, j)};
    return sum;
  }
  // Runs the product and compares it with a plain loop in double; elements between the rows must not change.
  void check(bool with_bias) {
    std::vector<T> result = c;
    remat::kernels::gemm(shape, a.data(), b.data(), result.data(), with_bias ? bias.data() : nullptr);
    const double tolerance = 4 * std::sqrt(static_cast<double>(shape.k) + 1) * std::numeric_limits<T>::epsilon();
    for (Index i = 0; i < shape.m; ++i) {
      for (Index j = 0; j < shape.ldc; ++j) {
        const Index element = i * shape.ldc + j;
        if (j >= shape.n) {
          ASSERT_EQ(at(result, element), at(c, element));
          continue;
        }
        ASSERT_NEAR(at(result, element), expected(i, j, with_bias), tolerance) << "at " << i << ", " << j;
      }
    }
  }
};

template <class T>
void check_all_by_one(Index m, Index n, Index k, Index gap) {
  for (const Trans ta : {Trans::no, Trans::yes}) {
    for (const Trans tb : {Trans::no, Trans::yes}) {
      for (const bool accumulate : {false, true}) {
        for (const bool with_bias : {false, true}) {
          SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) + ", transposes " +
                       std::to_string(int(ta)) + std::to_string(int(tb)) + ", accumulate " +
                       std::to_string(accumulate) + ", bias " + std::to_string(with_bias));
          Case<T>(ta, tb, m, n, k, gap, accumulate).check(with_bias);
          if (testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

template <class T>
void check_all(Index m, Index n, Index k, Index gap) {
  if constexpr (std::is_same_v<T, float>)
    with_each_backend([&] { check_all_by_one<T>(m, n, k, gap); });
  else
    check_all_by_one<T>(m, n, k, gap);
}

template <class T>
class GemmTest : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(GemmTest, Types);

TYPED_TEST(GemmTest, EqualsPlainLoops) {
  for (const Index m : {0, 1, 7, 33, 100}) {
    for (const Index n : {0, 1, 7, 64}) {
      for (const Index k : {0, 1, 7, 33, 64}) {
        check_all<TypeParam>(m, n, k, 0);
        if (this->HasFatalFailure()) return;
      }
    }
  }
}

TYPED_TEST(GemmTest, LeavesGapsBetweenRows) {
  check_all<TypeParam>(7, 33, 64, 5);
  check_all<TypeParam>(1, 64, 7, 3);
  check_all<TypeParam>(33, 1, 7, 3);
}

TYPED_TEST(GemmTest, EqualsPlainLoopsAcrossTiles) {
  EXPECT_GT(remat::kernels::detail::Tiling({.m = 301, .n = 203, .k = 150}).count(), 1);
  check_all<TypeParam>(301, 203, 150, 1);
  check_all<TypeParam>(1, 1000, 33, 0);
}

// Two threads have as much to do: 768 rows are no three tiles of 256.
TEST(GemmTiling, IsEven) {
  using remat::kernels::detail::Tiling;
  const Tiling rows({.m = 768, .n = 128, .k = 128}), columns({.m = 64, .n = 1536, .k = 128});
  EXPECT_EQ(rows.grid_rows, 4);
  EXPECT_EQ(rows.rows, 192);
  EXPECT_EQ(columns.grid_columns, 4);
  EXPECT_EQ(columns.columns, 384);
  EXPECT_EQ(Tiling({.m = 17, .n = 9, .k = 5}).count(), 1);
}

// A few tokens against a large matrix, as in decoding, go a way of their own.
TYPED_TEST(GemmTest, EqualsPlainLoopsForAFewRows) {
  EXPECT_TRUE(remat::kernels::detail::has_few_rows({.m = 1, .n = 300, .k = 219, .lda = 219}));
  for (const Index m : {1, 2, 3, 4}) {
    check_all<TypeParam>(m, 300, 219, 0);
    check_all<TypeParam>(m, 1100, 61, 0);
    check_all<TypeParam>(m, 37, 1801, 0);
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(GemmTest, LeadingDimensionZeroMeansNoGap) {
  Case<TypeParam> tight(Trans::no, Trans::yes, 7, 33, 64, 0, false);
  std::vector<TypeParam> expected = tight.c, result = tight.c;
  remat::kernels::gemm(tight.shape, tight.a.data(), tight.b.data(), expected.data());
  tight.shape.lda = tight.shape.ldb = tight.shape.ldc = 0;
  remat::kernels::gemm(tight.shape, tight.a.data(), tight.b.data(), result.data());
  EXPECT_EQ(result, expected);
}

TYPED_TEST(GemmTest, BatchEqualsSingleProducts) {
  using T = TypeParam;
  constexpr Index count = 5, m = 33, n = 20, k = 17;
  const std::vector<T> a = random_values<T>(count * m * k, 1), b = random_values<T>(count * k * n, 2);
  const std::vector<T> bias = random_values<T>(n, 3);
  const Gemm shape{.m = m, .n = n, .k = k};
  for (const Index stride_b : {Index{0}, k * n}) {  // 0: one B for all
    std::vector<T> together(count * m * n), single(count * m * n);
    const Batch batch{.count = count, .stride_a = m * k, .stride_b = stride_b, .stride_c = m * n};
    remat::kernels::gemm_batched(shape, batch, a.data(), b.data(), together.data(), bias.data());
    for (Index i = 0; i < count; ++i)
      remat::kernels::gemm(shape, a.data() + i * m * k, b.data() + i * stride_b, single.data() + i * m * n,
                           bias.data());
    EXPECT_EQ(together, single);
  }
  std::vector<T> untouched(7, T{3});
  remat::kernels::gemm_batched(shape, Batch{.count = 0}, a.data(), b.data(), untouched.data());
  EXPECT_EQ(untouched, std::vector<T>(7, T{3}));
}

// Backends that pad K with whatever lies behind a row once let a NaN cross rows.
TYPED_TEST(GemmTest, NanStaysInItsRow) {
  using T = TypeParam;
  constexpr Index m = 20, n = 33, poisoned = 7;
  for (const Trans ta : {Trans::no, Trans::yes}) {
    for (Index k = 1; k <= 64; ++k) {
      Case<T> clean(ta, Trans::no, m, n, k, 0, false);
      Case<T> poison = clean;
      for (Index p = 0; p < k; ++p)
        poison.a[static_cast<std::size_t>(ta == Trans::no ? poisoned * k + p : p * m + poisoned)] = std::nan("");
      remat::kernels::gemm(clean.shape, clean.a.data(), clean.b.data(), clean.c.data());
      remat::kernels::gemm(poison.shape, poison.a.data(), poison.b.data(), poison.c.data());
      for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
          if (i == poisoned)
            ASSERT_TRUE(std::isnan(at(poison.c, i * n + j))) << "k " << k;
          else
            ASSERT_EQ(at(poison.c, i * n + j), at(clean.c, i * n + j)) << "k " << k << ", row " << i;
        }
      }
    }
  }
}

// Nor may what C held before be read: fresh memory may hold NaN.
TYPED_TEST(GemmTest, OverwritesNan) {
  Case<TypeParam> product(Trans::no, Trans::no, 33, 64, 7, 0, false);
  std::fill(product.c.begin(), product.c.end(), static_cast<TypeParam>(std::nan("")));
  product.check(false);
  product.check(true);
}

// However a product of our own is cut, each element is added up alike; the shared panels, too, change nothing.
TYPED_TEST(GemmTest, SameBitsForAnyGrid) {
  using T = TypeParam;
  for (const auto& [m, n, k] : {std::tuple<Index, Index, Index>{100, 300, 700}, {61, 203, 219}, {13, 45, 300}})
    for (const Trans ta : {Trans::no, Trans::yes})
      for (const Trans tb : {Trans::no, Trans::yes}) {
        const Case<T> product(ta, tb, m, n, k, 3, false);
        const auto run = [&](const remat::kernels::packed::Grid& grid) {
          std::vector<T> c = product.c;
          remat::kernels::packed::Product<T, T>(product.shape, product.a.data(), product.b.data(), product.bias.data(),
                                                c.data())
              .run(grid);
          return c;
        };
        const std::vector<T> expected = run({});
        for (const Index rows : {1, 2, 3, 7})
          for (const Index columns : {1, 2, 3, 5})
            for (const bool shares : {false, true})
              EXPECT_EQ(run({rows, columns, shares}), expected)
                  << rows << " x " << columns << (shares ? " shared" : "");
      }
}

TYPED_TEST(GemmTest, SameBitsForAnyThreads) {
  const int before = omp_get_max_threads();
  for (const Trans tb : {Trans::no, Trans::yes}) {
    for (const auto& [ta, m, k] : {std::tuple{Trans::no, 301, 64},
                                   {Trans::yes, 301, 64},
                                   {Trans::no, 301, 700},
                                   {Trans::yes, 301, 700},
                                   {Trans::no, 3, 700}}) {
      Case<TypeParam> product(ta, tb, m, 203, k, 0, true);
      const auto run = [&] {
        std::vector<TypeParam> result = product.c;
        remat::kernels::gemm(product.shape, product.a.data(), product.b.data(), result.data(), product.bias.data());
        return result;
      };
      omp_set_num_threads(1);
      const std::vector<TypeParam> expected = run();
      for (const int threads : {1, 2, 3, 4}) {
        omp_set_num_threads(threads);
        for (int repeat = 0; repeat < 2; ++repeat) EXPECT_EQ(run(), expected) << threads << " threads";
        EXPECT_EQ(omp_get_max_threads(), threads) << "the caller's limit changed";
      }
      std::vector<TypeParam> nested[2];
#pragma omp parallel for num_threads(2)
      for (int i = 0; i < 2; ++i) nested[i] = run();
      EXPECT_EQ(nested[0], expected);
      EXPECT_EQ(nested[1], expected);
    }
  }
  omp_set_num_threads(before);
}

TEST(Gemm, RefusesImpossibleSizes) {
  float value = 0;
  EXPECT_THROW(remat::kernels::gemm({.m = -1, .n = 1, .k = 1}, &value, &value, &value), remat::Error);
  EXPECT_THROW(remat::kernels::gemm({.m = 1, .n = Index{1} << 31, .k = 1}, &value, &value, &value), remat::Error);
  EXPECT_THROW(remat::kernels::gemm({.m = 2, .n = 4, .k = 3, .lda = 2}, &value, &value, &value), remat::Error);
  for (const Gemm& shape :
       {Gemm{.m = 1, .n = 1, .k = 1, .lda = Index{1} << 31}, Gemm{.m = 1, .n = 1, .k = 1, .ldb = Index{1} << 31},
        Gemm{.m = 1, .n = 1, .k = 1, .ldc = Index{1} << 31}})
    EXPECT_THROW(remat::kernels::gemm(shape, &value, &value, &value), remat::Error);
}

#if defined(REMAT_GEMM_ONEDNN)
TEST(Gemm, NamesTheProductThatOneDnnRefuses) {
  remat_test::expect_error({"status", "on a product 2 x 3 x 5"},
                           [] { remat::kernels::onednn::detail::check(dnnl_unimplemented, {.m = 2, .n = 3, .k = 5}); });
}
#endif

// A and B of bfloat16; C of float, or of bfloat16, which is rounded once.
template <class C>
void check_bfloat16(Trans ta, Trans tb, Index m, Index n, Index k, Index gap, bool accumulate, bool with_bias) {
  const Case<float> exact(ta, tb, m, n, k, gap, accumulate);
  const auto rounded = [](const std::vector<float>& values) {
    std::vector<bfloat16> all;
    for (const float value : values) all.push_back(static_cast<bfloat16>(value));
    return all;
  };
  Case<float> reference = exact;
  const auto a = rounded(exact.a), b = rounded(exact.b);
  for (std::size_t i = 0; i < a.size(); ++i) reference.a[i] = static_cast<float>(a[i]);
  for (std::size_t i = 0; i < b.size(); ++i) reference.b[i] = static_cast<float>(b[i]);
  std::vector<C> result, before;
  for (const float value : exact.c) before.push_back(static_cast<C>(value));
  for (std::size_t i = 0; i < before.size(); ++i) reference.c[i] = static_cast<float>(before[i]);
  result = before;
  remat::kernels::gemm(exact.shape, a.data(), b.data(), result.data(), with_bias ? exact.bias.data() : nullptr);
  const double sum_error = 4 * std::sqrt(static_cast<double>(k) + 1) * double{std::numeric_limits<float>::epsilon()};
  const double rounding = std::is_same_v<C, float> ? 0 : 0x1p-8;
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < exact.shape.ldc; ++j) {
      const Index element = i * exact.shape.ldc + j;
      const double got = static_cast<double>(at(result, element));
      if (j >= n) {
        ASSERT_EQ(got, static_cast<double>(at(before, element)));
        continue;
      }
      const double expected = reference.expected(i, j, with_bias);
      ASSERT_NEAR(got, expected, sum_error + rounding * (std::abs(expected) + sum_error)) << "at " << i << ", " << j;
    }
  }
}

struct Extents {
  Index m, n, k, gap;
};

class Bfloat16GemmShapes : public testing::TestWithParam<Extents> {};

TEST_P(Bfloat16GemmShapes, EqualsPlainLoopsOnTheRoundedOperands) {
  const auto [m, n, k, gap] = GetParam();
  for (int variant = 0; variant < 16; ++variant) {
    SCOPED_TRACE("transposes, accumulate, bias: " + std::to_string(variant));
    const Trans ta = Trans(variant & 1), tb = Trans(variant >> 1 & 1);
    const bool accumulate = variant & 4, bias = variant & 8;
    check_bfloat16<float>(ta, tb, m, n, k, gap, accumulate, bias);
    check_bfloat16<bfloat16>(ta, tb, m, n, k, gap, accumulate, bias);
    if (HasFatalFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, Bfloat16GemmShapes,
                         testing::Values(Extents{0, 7, 3, 0}, Extents{7, 0, 3, 0}, Extents{7, 5, 0, 2},
                                         Extents{1, 1, 1, 0}, Extents{1, 64, 33, 1}, Extents{64, 1, 33, 0},
                                         Extents{33, 7, 1, 3}, Extents{7, 33, 64, 5}, Extents{100, 64, 33, 0},
                                         Extents{40, 56, 700, 0}, Extents{301, 203, 150, 1}),
                         [](const auto& info) {
                           const Extents& e = info.param;
                           return std::to_string(e.m) + "x" + std::to_string(e.n) + "x" + std::to_string(e.k);
                         });

TEST(Bfloat16Gemm, SameBitsForAnyThreads) {
  const int before = omp_get_max_threads();
  const Case<float> values(Trans::no, Trans::yes, 301, 203, 700, 0, false);
  std::vector<bfloat16> a, b;
  for (const float value : values.a) a.push_back(static_cast<bfloat16>(value));
  for (const float value : values.b) b.push_back(static_cast<bfloat16>(value));
  const auto run = [&](int threads) {
    omp_set_num_threads(threads);
    std::vector<float> c(values.c.size());
    remat::kernels::gemm(values.shape, a.data(), b.data(), c.data());
    return c;
  };
  const std::vector<float> expected = run(1);
  for (const int threads : {2, 3, 4}) EXPECT_EQ(run(threads), expected) << threads << " threads";
  omp_set_num_threads(before);
}

}  // namespace
