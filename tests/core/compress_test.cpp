// Compressed values come back within the stated bounds, from any thread count with the same bits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <remat/core/compress.hpp>
#include <remat/core/random.hpp>
#include <vector>

namespace {

using namespace remat;

/// Normal values of very different sizes from run to run, with some zeros.
template <class T>
std::vector<T> sample(Index count) {
  std::vector<T> x(static_cast<std::size_t>(count));
  const RandomStream random{7, 0, 0};
  for (Index i = 0; i < count; ++i) {
    const auto u = static_cast<std::uint64_t>(i);
    x[static_cast<std::size_t>(i)] =
        i % 17 == 0 ? T{0} : static_cast<T>(random.normal(u) * std::pow(10.0, static_cast<double>(i / 64 % 20) - 10));
  }
  return x;
}

template <class T>
std::vector<T> round_trip(Compression how, const std::vector<T>& x) {
  const auto count = static_cast<Index>(x.size());
  std::vector<std::byte> packed(compressed_bytes(how, dtype_of<T>(), count) + 64);
  std::vector<T> y(x.size());
  compress(how, dtype_of<T>(), reinterpret_cast<const std::byte*>(x.data()), count, packed.data());
  decompress(how, dtype_of<T>(), packed.data(), count, reinterpret_cast<std::byte*>(y.data()));
  return y;
}

template <class T>
class Compress : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(Compress, Types);

TYPED_TEST(Compress, Bfloat16KeepsEightBits) {
  const auto x = sample<TypeParam>(5003), y = round_trip(Compression::bfloat16, x);
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(x[i] == 0, y[i] == 0);
    if (x[i] != 0) worst = std::max(worst, std::abs(static_cast<double>((y[i] - x[i]) / x[i])));
  }
  EXPECT_LE(worst, 0x1p-8 * (1 + 1e-6));
  EXPECT_GT(worst, 0x1p-9);  // or it would not have been compressed
}

TYPED_TEST(Compress, Int8IsWithinItsShareOfTheRunsGreatest) {
  for (const Index count : {1, 63, 64, 65, 5003}) {
    const auto x = sample<TypeParam>(count), y = round_trip(Compression::int8, x);
    for (std::size_t run = 0; run < x.size(); run += 64) {
      TypeParam top = 0;
      for (std::size_t i = run; i < std::min(x.size(), run + 64); ++i) top = std::max(top, std::abs(x[i]));
      for (std::size_t i = run; i < std::min(x.size(), run + 64); ++i) ASSERT_LE(std::abs(y[i] - x[i]), top / 250) << i;
    }
  }
}

TYPED_TEST(Compress, WhatIsNotFiniteStaysSeen) {
  std::vector<TypeParam> x(200, 1);
  x[70] = std::numeric_limits<TypeParam>::quiet_NaN();
  x[140] = std::numeric_limits<TypeParam>::infinity();
  for (const auto how : {Compression::bfloat16, Compression::int8}) {
    const auto y = round_trip(how, x);
    EXPECT_EQ(y[0], 1);
    EXPECT_TRUE(std::isnan(y[70]));
    EXPECT_FALSE(std::isfinite(y[140]));
  }
}

TYPED_TEST(Compress, TakesTheBytesItSays) {
  EXPECT_EQ(compressed_bytes(Compression::bfloat16, DType::float32, 65), 130U);
  EXPECT_EQ(compressed_bytes(Compression::int8, DType::float32, 65), 2 * 4 + 65U);
  EXPECT_EQ(compressed_bytes(Compression::int8, DType::float64, 64), 8 + 64U);
}

}  // namespace
