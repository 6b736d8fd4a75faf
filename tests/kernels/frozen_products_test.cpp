// Products with a matrix that is decoded by strips: as with one that is decoded whole, in no more memory than they say.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <remat/core/eigen.hpp>
#include <remat/core/random.hpp>
#include <remat/kernels/frozen_products.hpp>
#include <remat/kernels/linear.hpp>
#include <remat/kernels/quantized.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using remat::Accum;
using remat::bfloat16;
using remat::Index;
using remat::kernels::BlockFormat;
using remat::kernels::FrozenProducts;

template <class T>
std::vector<T> random_values(Index count, std::uint64_t seed) {
  std::vector<T> values(static_cast<std::size_t>(count));
  const remat::RandomStream stream{.seed = seed};
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(stream.uniform(i) - 0.5F);
  return values;
}

// Of any format: random blocks with scales of about 1/100.
class StoredMatrix : public remat::FrozenMatrix {
 public:
  StoredMatrix(BlockFormat format, Index rows, Index columns)
      : FrozenMatrix(rows, columns), format_(format), layout_(remat::kernels::layout_of(format)) {
    const Index count = rows * columns;
    EXPECT_EQ(columns % layout_.elements, 0);
    bytes_.resize(static_cast<std::size_t>(count / layout_.elements * layout_.bytes));
    const auto values = random_values<float>(std::max(count, static_cast<Index>(bytes_.size())), 7);
    if (layout_.elements == 1) {
      remat::kernels::encode_blocks(format, values.data(), count, bytes_.data());
      return;
    }
    for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<std::byte>(values[i] * 1000);
    const bool second = format == BlockFormat::q4_1 || format == BlockFormat::q4_k;
    for (Index at = 0; at < static_cast<Index>(bytes_.size()); at += layout_.bytes) {
      put_scale(at + (format == BlockFormat::q6_k ? 208 : 0), 0.01F);
      if (second) put_scale(at + 2, 0.02F);
    }
  }
  void read(Index first, Index count, float* to) const override {
    EXPECT_TRUE(first >= 0 && count > 0 && columns() > 0 && first + count <= rows());
    remat::kernels::decode_blocks(format_, bytes_.data(), first * columns(), count * columns(), to);
  }
  std::string format() const override { return layout_.name; }
  std::size_t bytes() const override { return bytes_.size(); }
  std::size_t mapped_bytes() const override { return 0; }

 private:
  void put_scale(Index at, float value) {
    const std::uint16_t half = remat::kernels::narrow_half(value);
    std::memcpy(bytes_.data() + at, &half, sizeof half);
  }

  BlockFormat format_;
  remat::kernels::BlockLayout layout_;
  std::vector<std::byte> bytes_{};
};

// Full of NaN, and with bytes behind its end that must stay.
class GuardedScratch {
 public:
  explicit GuardedScratch(std::size_t bytes) : bytes_(bytes), all_(bytes + 2 * 64, std::byte{0xff}) {
    EXPECT_EQ(bytes % 64, 0U);
  }
  std::byte* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(all_.data());
    return all_.data() + (64 - address % 64) % 64;
  }
  void check() {
    for (const std::byte* at = data() + bytes_; at < all_.data() + all_.size(); ++at) ASSERT_EQ(*at, std::byte{0xff});
  }

 private:
  std::size_t bytes_;
  std::vector<std::byte> all_;
};

template <class T, class Y>
std::vector<Y> forward(const FrozenProducts<T>& products, const std::vector<T>& x, const Accum<T>* bias) {
  std::vector<Y> y(static_cast<std::size_t>(products.rows * products.outputs()), static_cast<Y>(std::nanf("")));
  GuardedScratch scratch(products.forward_scratch());
  products.forward(x.data(), bias, y.data(), scratch.data());
  scratch.check();
  return y;
}
template <class T>
std::vector<T> gradient(const FrozenProducts<T>& products, const std::vector<T>& dy, bool add) {
  auto dx = random_values<T>(products.rows * products.inputs(), 5);
  if (!add) std::fill(dx.begin(), dx.end(), static_cast<T>(std::nanf("")));
  GuardedScratch scratch(products.gradient_scratch());
  products.input_gradient(dy.data(), add, dx.data(), scratch.data());
  scratch.check();
  return dx;
}

template <class T>
std::vector<double> doubles(const std::vector<T>& values, bool magnitudes = false) {
  std::vector<double> all;
  for (const T& value : values)
    all.push_back(magnitudes ? std::abs(static_cast<double>(value)) : static_cast<double>(value));
  return all;
}
// Each within its rounding, relative to the sum of the magnitudes of its terms.
template <class T>
void expect_near(const std::vector<T>& got, const std::vector<double>& want, const std::vector<double>& magnitudes,
                 double rounding) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(static_cast<double>(got[i]), want[i], rounding * magnitudes[i]) << "element " << i;
}

template <class T>
void check(const remat::FrozenMatrix& matrix, Index rows, bool transposed, std::size_t strip_bytes) {
  SCOPED_TRACE(matrix.format() + ' ' + matrix.shape().to_string() + (transposed ? " transposed, " : ", ") +
               std::to_string(rows) + " rows, strips of " + std::to_string(strip_bytes));
  const FrozenProducts<T> products{rows, &matrix, transposed, strip_bytes};
  const Index inputs = products.inputs(), outputs = products.outputs();
  const remat::kernels::LinearProducts<double> reference{rows, inputs, outputs, transposed};
  std::vector<float> decoded(static_cast<std::size_t>(matrix.rows() * matrix.columns()));
  if (!decoded.empty()) matrix.read(0, matrix.rows(), decoded.data());
  const auto x = random_values<T>(rows * inputs, 1), dy = random_values<T>(rows * outputs, 2);
  const auto bias = random_values<Accum<T>>(outputs, 3);
  const double rounding =
      std::is_same_v<T, bfloat16> ? 0x1.02p-7 : 16 * double{std::numeric_limits<Accum<T>>::epsilon()};

  for (const bool has_bias : {false, true}) {
    std::vector<double> want(static_cast<std::size_t>(rows * outputs)), size = want;
    const auto b = doubles(bias), b_size = doubles(bias, true);
    reference.forward(doubles(x).data(), doubles(decoded).data(), has_bias ? b.data() : nullptr, want.data());
    reference.forward(doubles(x, true).data(), doubles(decoded, true).data(), has_bias ? b_size.data() : nullptr,
                      size.data());
    const Accum<T>* const given = has_bias ? bias.data() : nullptr;
    expect_near(forward<T, T>(products, x, given), want, size, rounding);
    expect_near(forward<T, Accum<T>>(products, x, given), want, size, rounding);
  }
  for (const bool add : {false, true}) {
    const auto before = random_values<T>(rows * inputs, 5);
    std::vector<double> want = doubles(before), size = doubles(before, true);
    reference.input_gradient(doubles(dy).data(), doubles(decoded).data(), add, want.data());
    reference.input_gradient(doubles(dy, true).data(), doubles(decoded, true).data(), add, size.data());
    expect_near(gradient(products, dy, add), want, size, rounding);
  }
}

constexpr std::size_t one_strip = std::size_t{1} << 20, short_strips = 1;  // the least is 64 rows

template <class T>
class FrozenProductsTest : public testing::Test {};
using Types = testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(FrozenProductsTest, Types);

TYPED_TEST(FrozenProductsTest, EqualProductsWithTheDecodedMatrix) {
  for (const auto& [stored_rows, columns] : {std::pair<Index, Index>{1, 1}, {7, 33}, {64, 5}, {65, 70}, {203, 37}}) {
    const StoredMatrix matrix(BlockFormat::f32, stored_rows, columns);
    for (const bool transposed : {false, true})
      for (const Index rows : {1, 2, 3, 4, 7, 8, 9, 33})
        for (const std::size_t strip : {one_strip, short_strips}) {
          check<TypeParam>(matrix, rows, transposed, strip);
          if (this->HasFatalFailure()) return;
        }
  }
}

// Protects sums that go on over pieces of rows, and scalar products over blocks of their terms.
TYPED_TEST(FrozenProductsTest, AreRightAcrossPiecesAndBlocks) {
  const StoredMatrix tall(BlockFormat::f32, 130, 9), wide(BlockFormat::f32, 70, 4101);
  for (const bool transposed : {false, true}) {
    check<TypeParam>(tall, 1030, transposed, short_strips);
    for (const Index rows : {1, 3}) check<TypeParam>(wide, rows, transposed, short_strips);
  }
}

TYPED_TEST(FrozenProductsTest, TakeEveryFormat) {
  for (const BlockFormat format : {BlockFormat::f16, BlockFormat::bf16, BlockFormat::q8_0, BlockFormat::q4_0,
                                   BlockFormat::q4_1, BlockFormat::q5_0, BlockFormat::q4_k, BlockFormat::q6_k}) {
    const StoredMatrix matrix(format, 67, 256);
    for (const bool transposed : {false, true})
      for (const Index rows : {3, 20}) {
        check<TypeParam>(matrix, rows, transposed, short_strips);
        if (this->HasFatalFailure()) return;
      }
  }
}

// Protects empty batches and layers: a sum of nothing is the bias, or what was there.
TYPED_TEST(FrozenProductsTest, TakeEmptyExtents) {
  for (const auto& [stored_rows, columns] : {std::pair<Index, Index>{0, 0}, {0, 5}, {5, 0}, {5, 3}}) {
    const StoredMatrix matrix(BlockFormat::f32, stored_rows, columns);
    for (const bool transposed : {false, true})
      for (const Index rows : {0, 1, 9}) check<TypeParam>(matrix, rows, transposed, short_strips);
  }
}

TYPED_TEST(FrozenProductsTest, HaveTheSameBitsForAnyThreads) {
  const int before = omp_get_max_threads();
  const StoredMatrix matrix(BlockFormat::q4_k, 260, 256);
  for (const bool transposed : {false, true})
    for (const Index rows : {1, 6, 130}) {
      const FrozenProducts<TypeParam> products{rows, &matrix, transposed, short_strips};
      const auto x = random_values<TypeParam>(rows * products.inputs(), 1);
      const auto dy = random_values<TypeParam>(rows * products.outputs(), 2);
      const auto run = [&](int threads) {
        omp_set_num_threads(threads);
        return std::pair(forward<TypeParam, TypeParam>(products, x, nullptr), gradient(products, dy, true));
      };
      const auto expected = run(1);
      for (const int threads : {2, 3}) EXPECT_EQ(run(threads), expected) << threads << " threads, " << rows << " rows";
    }
  omp_set_num_threads(before);
}

// Protects bfloat16 sums over strips: a result is rounded once, as the float result is.
TEST(FrozenProducts, RoundOnce) {
  const StoredMatrix matrix(BlockFormat::bf16, 300, 20);
  const FrozenProducts<bfloat16> products{9, &matrix, false, short_strips};
  const auto x = random_values<bfloat16>(9 * 300, 1);
  const auto bias = random_values<float>(20, 3);
  const auto exact = forward<bfloat16, float>(products, x, bias.data());
  const auto rounded = forward<bfloat16, bfloat16>(products, x, bias.data());
  for (std::size_t i = 0; i < exact.size(); ++i) EXPECT_EQ(rounded[i], static_cast<bfloat16>(exact[i]));
}

// Protects memory: scratch is for a strip of a matrix, or a few of its rows, however large it is.
TEST(FrozenProducts, NeedLittleScratch) {
  struct Huge : remat::FrozenMatrix {
    Huge() : FrozenMatrix(128000, 4096) {}
    void read(Index, Index, float*) const override {}
    std::string format() const override { return "none"; }
    std::size_t bytes() const override { return 0; }
    std::size_t mapped_bytes() const override { return 0; }
  } matrix;
  constexpr std::size_t mib = std::size_t{1} << 20;
  for (const Index rows : {1, 8, 2048}) {
    EXPECT_LE((FrozenProducts<float>{rows, &matrix, true}.forward_scratch()), 4 * mib);
    EXPECT_LE((FrozenProducts<float>{rows, &matrix, true}.gradient_scratch()), 4 * mib);
    EXPECT_LE((FrozenProducts<bfloat16>{rows, &matrix, true}.forward_scratch()), 5 * mib);
    EXPECT_LE((FrozenProducts<bfloat16>{rows, &matrix, true}.gradient_scratch()), 13 * mib);
  }
}

}  // namespace
