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
#include <tuple>
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
  Index granule() const override { return layout_.elements; }
  void read_part(Index first, Index count, Index column, Index width, float* to) const override {
    EXPECT_TRUE(first >= 0 && count > 0 && first + count <= rows() && column >= 0 && width > 0);
    EXPECT_TRUE(column % granule() == 0 && (width % granule() == 0 || column + width == columns()));
    EXPECT_LE(column + width, columns());
    for (Index i = 0; i < count; ++i)
      remat::kernels::decode_blocks(format_, bytes_.data(), (first + i) * columns() + column, width, to + i * width);
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

// Each backend of this program in turn makes the products of floats.
class FrozenTiles : public testing::Test {
 protected:
  template <class F>
  void with_each_backend(F&& run) {
    for (const remat::kernels::Backend backend : remat::kernels::backends) {
      SCOPED_TRACE(name_of(backend));
      remat::kernels::set_gemm_choice(remat::kernels::GemmChoice(backend));
      run();
      if (HasFatalFailure()) return;
    }
  }
  void TearDown() override { remat::kernels::set_gemm_choice(before_); }

 private:
  const remat::kernels::GemmChoice before_ = remat::kernels::gemm_choice();
};

// Protects products that are cut in every direction: several tiles of rows and columns, with ragged ends, and pieces of
// the sum, of blocks that begin where parts do.
TEST_F(FrozenTiles, EqualProductsWithTheDecodedMatrix) {
  with_each_backend([&] {
    for (const auto& [format, stored_rows, columns, rows] :
         {std::tuple<BlockFormat, Index, Index, Index>{BlockFormat::f32, 411, 331, 3},
          {BlockFormat::f32, 210, 331, 270},
          {BlockFormat::f32, 1540, 5, 270},
          {BlockFormat::q8_0, 411, 160, 2},
          {BlockFormat::q8_0, 219, 416, 21},
          {BlockFormat::q4_k, 300, 512, 1},
          {BlockFormat::q4_k, 300, 512, 5}}) {
      const StoredMatrix matrix(format, stored_rows, columns);
      for (const bool transposed : {false, true})
        for (const std::size_t strip : {one_strip, short_strips}) {
          check<float>(matrix, rows, transposed, strip);
          if (HasFatalFailure()) return;
        }
    }
  });
}

// Protects what a run with stored weights says of one with floats: where products are our own, the bits are the same.
TEST_F(FrozenTiles, HaveTheBitsOfOurOwnProducts) {
  remat::kernels::set_gemm_choice(remat::kernels::GemmChoice());
  const StoredMatrix matrix(BlockFormat::q4_k, 530, 512);
  std::vector<float> decoded(530 * 512);
  matrix.read(0, 530, decoded.data());
  for (const bool transposed : {false, true})
    for (const Index rows : {9, 130})
      for (const std::size_t strip : {std::size_t{4} << 20, one_strip, short_strips}) {
        const FrozenProducts<float> products{rows, &matrix, transposed, strip};
        const remat::kernels::LinearProducts<float> plain{rows, products.inputs(), products.outputs(), transposed};
        const auto x = random_values<float>(rows * plain.inputs, 1), bias = random_values<float>(plain.outputs, 3);
        const auto dy = random_values<float>(rows * plain.outputs, 2);
        std::vector<float> y(dy.size()), dx = random_values<float>(rows * plain.inputs, 5);
        plain.forward(x.data(), decoded.data(), bias.data(), y.data());
        plain.input_gradient(dy.data(), decoded.data(), true, dx.data());
        EXPECT_EQ((forward<float, float>(products, x, bias.data())), y) << rows << " rows, " << transposed;
        EXPECT_EQ(gradient(products, dy, true), dx) << rows << " rows, " << transposed;
      }
}

// Protects memory, and matrices of which only whole rows can be read: floats of these are made by strips.
TEST_F(FrozenTiles, AreOfMatricesWithParts) {
  struct Rows : StoredMatrix {
    Rows() : StoredMatrix(BlockFormat::f32, 40, 300) {}
    Index granule() const override { return FrozenMatrix::granule(); }
    void read_part(Index first, Index count, Index column, Index width, float* to) const override {
      FrozenMatrix::read_part(first, count, column, width, to);
    }
  } const whole;
  EXPECT_EQ(whole.granule(), 300);
  const StoredMatrix parts(BlockFormat::f32, 40, 300);
  for (const bool transposed : {false, true}) {
    for (const Index rows : {1, 30}) check<float>(whole, rows, transposed, short_strips);
    EXPECT_GT((FrozenProducts<float>{30, &whole, transposed}.forward_scratch()), 0U);
    EXPECT_EQ((FrozenProducts<float>{30, &parts, transposed}.forward_scratch()), 0U);
    EXPECT_EQ((FrozenProducts<float>{30, &parts, transposed}.gradient_scratch()), 0U);
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
    for (const Index rows : {1, 6, 130, 300}) {
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
