// Sums of millions of float32 numbers: as exact as short ones, whatever is summed along.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <remat/core/cascade_sum.hpp>
#include <remat/core/parallel.hpp>
#include <remat/core/random.hpp>
#include <remat/kernels/broadcast.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/rows.hpp>
#include <vector>

namespace {

using namespace remat;

/// All 0.1, or pseudo-random in [0, 1).
std::vector<float> numbers_of(Index count, bool are_equal) {
  std::vector<float> x(static_cast<std::size_t>(count), 0.1F);
  std::uint32_t state = 1;
  if (!are_equal)
    for (float& each : x) each = static_cast<float>((state = state * 1664525U + 1013904223U) >> 8) * 0x1p-24F;
  return x;
}
double exact_sum(const std::vector<float>& x, std::size_t begin = 0, std::size_t step = 1) {
  double sum = 0;
  for (std::size_t i = begin; i < x.size(); i += step) sum += double{x[i]};
  return sum;
}
// A plain sum of 5 million equal floats is off by up to 1 %, in 16 lanes by 1e-4.
constexpr double tolerance = 2e-6;

TEST(LongSums, Cascade) {
  for (const Index count : {0, 1, 63, 64, 65, 4095, 4096, 4097, 300000}) {
    CascadeSum<double> numbers;
    CascadeSum<Index, 3> sums;
    for (Index i = 0; i < count; ++i) {
      const double number = 1;
      const Index term[] = {i, 1, -i};
      numbers.add(&number);
      sums.add(term, 2);
    }
    EXPECT_EQ(*numbers.total(), static_cast<double>(count));
    const Index* total = sums.total(2);
    EXPECT_EQ(total[0], count * (count - 1) / 2);
    EXPECT_EQ(total[1], count);
  }
}

TEST(LongSums, OfOneRow) {
  for (const bool are_equal : {true, false})
    for (const Index count : {2048, 2049, 5000, 1000000}) {
      const std::vector<float> x = numbers_of(count, are_equal);
      const double expected = exact_sum(x);
      EXPECT_NEAR(kernels::sum(x.data(), count) / expected, 1, tolerance) << count;
      EXPECT_NEAR(kernels::dot(x.data(), std::vector<float>(x.size(), 1.0F).data(), count) / expected, 1, tolerance);
      float total = 0;
      kernels::sum_to(Shape{count}, x.data(), Shape{1}, &total);
      EXPECT_NEAR(total / expected, 1, tolerance) << count;
    }
}

// [A, 2, B] summed over the outer axes: runs, of which there are many.
TEST(LongSums, OfManyShortRows) {
  constexpr Index outer = 500000;
  for (const bool are_equal : {true, false}) {
    const std::vector<float> x = numbers_of(outer * 2 * 2, are_equal);
    float sums[2];
    kernels::sum_to(Shape{outer, 2, 2}, x.data(), Shape{1, 2, 1}, sums);
    for (const std::size_t i : {0U, 1U}) {
      const double expected = exact_sum(x, 2 * i, 4) + exact_sum(x, 2 * i + 1, 4);
      EXPECT_NEAR(double{sums[i]} / expected, 1, tolerance);
    }
  }
}

// Bias gradients, and sums over a batch.
TEST(LongSums, OfColumns) {
  constexpr Index rows = 1500000, width = 3;
  for (const bool are_equal : {true, false}) {
    const std::vector<float> x = numbers_of(rows * width, are_equal);
    float sums[width], columns[width] = {1, 1, 1};
    kernels::sum_to(Shape{rows, width}, x.data(), Shape{width}, sums);
    std::vector<float> scratch(kernels::RowBlocks(rows).bytes<float>(width) / sizeof(float));
    kernels::column_sums(x.data(), rows, width, true, columns, scratch.data());
    for (std::size_t i = 0; i < width; ++i) {
      const double expected = exact_sum(x, i, width);
      EXPECT_NEAR(double{sums[i]} / expected, 1, tolerance);
      EXPECT_NEAR((double{columns[i]} - 1) / expected, 1, tolerance);
    }
  }
}

TEST(LongSums, OfBlocks) {
  const float total =
      parallel_sum<float>(3000000, 10, [](Index begin, Index end) { return 0.1F * static_cast<float>(end - begin); });
  EXPECT_NEAR(total / (300000 * double{0.1F * 10.0F}), 1, tolerance);
}

TEST(LongSums, AreTheSameForAnyNumberOfThreads) {
  constexpr Index rows = 10000, width = 700;
  const std::vector<float> x = numbers_of(rows * width, false);
  const auto results = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    std::vector<float> sums(2 * width + 1);
    std::vector<float> scratch(kernels::RowBlocks(rows).bytes<float>(width) / sizeof(float));
    kernels::column_sums(x.data(), rows, width, false, sums.data(), scratch.data());
    kernels::sum_to(Shape{rows, width}, x.data(), Shape{width}, sums.data() + width);
    kernels::sum_to(Shape{rows, width}, x.data(), Shape{}, sums.data() + 2 * width);
    omp_set_num_threads(before);
    return sums;
  };
  const auto one = results(1);
  EXPECT_EQ(one, results(2));
  EXPECT_EQ(one, results(3));
}

// Sums of usual lengths are the plain ones, bit by bit: 128 rows a block, 64 blocks.
TEST(LongSums, ShortOnesArePlain) {
  constexpr Index rows = 64 * 128, width = 5;
  const std::vector<float> x = numbers_of(rows * width, false);
  std::vector<float> sums(width), expected(width), scratch(64 * width);
  kernels::column_sums(x.data(), rows, width, false, sums.data(), scratch.data());
  for (std::size_t block = 0; block < 64; ++block)
    for (std::size_t j = 0; j < width; ++j) {
      float partial = 0;
      for (std::size_t i = 0; i < 128; ++i) partial += x[(block * 128 + i) * width + j];
      expected[j] += partial;
    }
  EXPECT_EQ(sums, expected);
}

}  // namespace
