// Frozen matrices: over the blocks of a file, in the order of its heads, and quantized when they are loaded.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <core/expect_error.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <remat/core/random.hpp>
#include <remat/io/gguf.hpp>
#include <remat/kernels/quantized.hpp>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace remat;
using kernels::BlockFormat, kernels::BlockMatrix, kernels::Int8Rows, kernels::Nf4Blocks;
using remat_test::expect_error;

std::vector<float> read_all(const FrozenMatrix& matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.shape().size()));
  matrix.read(0, matrix.rows(), values.data());
  return values;
}
// Protects reading from anywhere: some rows, and some columns of them, are those of the whole, and nothing else is
// written.
void expect_any_part(const FrozenMatrix& matrix) {
  const std::vector<float> whole = read_all(matrix);
  const Index columns = matrix.columns();
  for (Index first = 0; first < matrix.rows(); ++first)
    for (Index count = 0; first + count <= matrix.rows(); ++count) {
      std::vector<float> rows(static_cast<std::size_t>(count * columns + 1), 123.0F);
      matrix.read(first, count, rows.data());
      const auto bytes = static_cast<std::size_t>(count * columns) * sizeof(float);
      ASSERT_EQ(std::memcmp(rows.data(), whole.data() + first * columns, bytes), 0) << first << ' ' << count;
      ASSERT_EQ(rows.back(), 123.0F);
    }
  const Index granule = matrix.granule(), first = matrix.rows() / 3, count = matrix.rows() - first;
  for (Index column = 0; column < columns; column += granule)
    for (Index end = column + granule; end - granule < columns; end += granule) {
      const Index width = std::min(end, columns) - column;
      std::vector<float> part(static_cast<std::size_t>(count * width + 1), 123.0F);
      matrix.read_part(first, count, column, width, part.data());
      for (Index i = 0; i < count; ++i)
        ASSERT_EQ(std::memcmp(part.data() + i * width, whole.data() + (first + i) * columns + column,
                              static_cast<std::size_t>(width) * sizeof(float)),
                  0)
            << "columns " << column << " to " << column + width << " of row " << first + i;
      ASSERT_EQ(part.back(), 123.0F);
    }
}
kernels::RowReader reader_of(const std::vector<float>& values, Index columns) {
  return [&values, columns](Index first, Index count, float* to) {
    std::copy_n(values.data() + first * columns, count * columns, to);
  };
}
std::vector<float> random_floats(Index count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  const RandomStream stream{.seed = 3};
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = stream.uniform(i) - 0.5F;
  return values;
}

TEST(BlockMatrix, ReadsTheFloatsOfItsFormat) {
  const io::GgufFile file(REMAT_SOURCE_DIR "/tests/golden/gguf_blocks.gguf");
  for (const BlockFormat format : {BlockFormat::q8_0, BlockFormat::q4_0, BlockFormat::q4_1, BlockFormat::q5_0,
                                   BlockFormat::q5_1, BlockFormat::q4_k, BlockFormat::q5_k, BlockFormat::q6_k}) {
    const std::string name = kernels::name_of(format);
    SCOPED_TRACE(name);
    const std::span<const std::byte> bytes = file.at(name + ".stored").bytes;
    const auto want = file.read<float>(name + ".values");
    const Index blocks = want.size() / kernels::layout_of(format).elements;
    const Index rows = blocks % 3 == 0   ? blocks / 3
                       : blocks % 2 == 0 ? blocks / 2
                                         : blocks,
                columns = want.size() / rows;
    const BlockMatrix matrix(format, rows, columns, {.bytes = bytes, .owner = file.mapping()});
    EXPECT_EQ(matrix.format(), name);
    EXPECT_EQ(matrix.mapped_bytes(), bytes.size());
    EXPECT_EQ(matrix.bytes(), 0U);
    EXPECT_EQ(std::memcmp(read_all(matrix).data(), want.data(), static_cast<std::size_t>(want.size()) * sizeof(float)),
              0);
    expect_any_part(matrix);
  }
}

// Protects the mapping: it lasts as long as a matrix that reads it.
TEST(BlockMatrix, KeepsItsOwner) {
  auto owner = std::make_shared<std::vector<std::byte>>(8 * sizeof(float));
  const std::weak_ptr<const void> seen = owner;
  {
    const BlockMatrix matrix(BlockFormat::f32, 2, 4, {.bytes = *owner, .owner = owner, .is_mapped = false});
    owner.reset();
    EXPECT_FALSE(seen.expired());
    EXPECT_EQ(matrix.bytes(), 8 * sizeof(float));
    EXPECT_EQ(matrix.mapped_bytes(), 0U);
  }
  EXPECT_TRUE(seen.expired());
}

// Protects files of Llama's kind, where row 2 i + p of a head of H rows is our row i + p H / 2.
TEST(BlockMatrix, PutsRowsOfHeadsInOurOrder) {
  for (const Index heads : {1, 2, 3, 8})
    for (const Index head : {2, 4, 6, 64}) {
      const Index rows = heads * head;
      std::vector<float> stored(static_cast<std::size_t>(rows * 3)), want = stored;
      for (Index row = 0; row < rows; ++row)
        for (Index j = 0; j < 3; ++j) {
          const Index pair = row % head / 2, second = row % 2, ours = row / head * head + second * (head / 2) + pair;
          const auto value = static_cast<float>(row * 3 + j);
          stored[static_cast<std::size_t>(row * 3 + j)] = want[static_cast<std::size_t>(ours * 3 + j)] = value;
        }
      const BlockMatrix matrix(BlockFormat::f32, rows, 3,
                               {.bytes = std::as_bytes(std::span(stored)), .paired_heads = heads});
      EXPECT_EQ(read_all(matrix), want) << heads << " heads of " << head;
      if (rows < 20) expect_any_part(matrix);
    }
}

// Of 4 query heads and 2 key/value heads of 2 rows: query heads 0 and 1, key 0, value 0, then 2, 3, key 1, value 1.
TEST(BlockMatrix, PutsRowsOfQueryKeyAndValueInOurOrder) {
  const kernels::RowOrder order{.qkv_heads = 4, .qkv_groups = 2};
  std::vector<Index> heads;
  for (Index row = 0; row < 16; row += 2) heads.push_back(order.stored(row, 16) / 2);
  EXPECT_EQ(heads, (std::vector<Index>{0, 1, 4, 5, 2, 6, 3, 7}));
  for (Index row = 0; row < 16; ++row) EXPECT_EQ(order.ours(order.stored(row, 16), 16), row);
  std::vector<float> numbers(16);
  for (std::size_t i = 0; i < 16; ++i) numbers[i] = static_cast<float>(i);
  const BlockMatrix matrix(BlockFormat::f32, 16, 1,
                           {.bytes = std::as_bytes(std::span(numbers)), .qkv_heads = 4, .qkv_groups = 2});
  float row = 0;
  matrix.read(9, 1, &row);
  EXPECT_EQ(row, 5);  // key 0 is the third head of the file
}

TEST(BlockMatrix, RefusesWhatDoesNotFit) {
  const std::vector<std::byte> bytes(34 * 6);
  const auto make = [&](Index rows, Index columns, Index heads) {
    BlockMatrix(BlockFormat::q8_0, rows, columns, {.bytes = bytes, .paired_heads = heads});
  };
  make(6, 32, 3);
  make(3, 64, 0);
  expect_error({"rows of 33", "whole blocks of Q8_0", "32"}, [&] { make(6, 33, 0); });
  expect_error({"[5, 32]", "170 bytes", "204"}, [&] { make(5, 32, 0); });
  expect_error({"6 rows", "2 heads"}, [&] { make(6, 32, 2); });
  expect_error({"6 rows", "-1 heads"}, [&] { make(6, 32, -1); });
  expect_error({"overflows"}, [&] { make(Index{1} << 60, 3200, 0); });
}

// Protects the promise that no element is off by more than half a step of its row.
TEST(Int8Rows, AreWithinHalfAStep) {
  constexpr Index rows = 70, columns = 37;
  std::vector<float> values = random_floats(rows * columns);
  for (Index row = 0; row < rows; ++row)
    for (Index j = 0; j < columns; ++j)
      values[static_cast<std::size_t>(row * columns + j)] *= std::pow(10.0F, static_cast<float>(row % 9) - 4.0F);
  std::fill_n(values.begin() + columns, columns, 0.0F);
  const Int8Rows matrix(rows, columns, reader_of(values, columns));
  const std::vector<float> got = read_all(matrix);
  for (Index row = 0; row < rows; ++row) {
    float greatest = 0;
    for (Index j = 0; j < columns; ++j)
      greatest = std::max(greatest, std::fabs(values[static_cast<std::size_t>(row * columns + j)]));
    for (std::size_t i = static_cast<std::size_t>(row * columns), end = i + columns; i < end; ++i) {
      ASSERT_LE(std::fabs(got[i] - values[i]), greatest / 127 / 2 * 1.0001F) << row;
      if (std::fabs(values[i]) == greatest) {
        ASSERT_NEAR(got[i], values[i], greatest * 1e-6F);
      }
    }
  }
  EXPECT_EQ(matrix.bytes(), static_cast<std::size_t>(rows * columns + rows * 4));
  EXPECT_EQ(matrix.mapped_bytes(), 0U);
  EXPECT_EQ(matrix.format(), "INT8");
  expect_any_part(matrix);
}

TEST(Int8Rows, RoundsToTheNearest) {
  const std::vector<float> values = {127, 0.4F, 0.6F, -0.4F, -0.6F, 126.6F, -127, 63.5F};
  EXPECT_EQ(read_all(Int8Rows(1, 8, reader_of(values, 8))), (std::vector<float>{127, 0, 1, 0, -1, 127, -127, 64}));
}

// Protects models that others trained on NF4: the floats are theirs bit for bit.
TEST(Nf4Blocks, AreThoseOfBitsandbytes) {
  const io::GgufFile file(REMAT_SOURCE_DIR "/tests/golden/nf4_blocks.gguf");
  const auto values = file.read<float>("values"), want = file.read<float>("quantized");
  const Index rows = values.shape()[0], columns = values.shape()[1];
  const Nf4Blocks matrix(rows, columns, [&](Index first, Index count, float* to) {
    std::copy_n(values.data() + first * columns, count * columns, to);
  });
  const std::vector<float> got = read_all(matrix);
  for (Index i = 0; i < want.size(); ++i) ASSERT_EQ(got[static_cast<std::size_t>(i)], want[i]) << "element " << i;
  EXPECT_EQ(matrix.bytes(), static_cast<std::size_t>(rows * columns / 2 + rows * columns / 64 * 4));
  EXPECT_EQ(matrix.mapped_bytes(), 0U);
  EXPECT_EQ(matrix.format(), "NF4");
}

// Protects rows that are not whole blocks: each block is as if it were a row.
TEST(Nf4Blocks, MayEndAnywhereInARow) {
  for (const Index columns : {1, 2, 63, 64, 65, 130, 131}) {
    constexpr Index rows = 3;
    const std::vector<float> values = random_floats(rows * columns);
    const Nf4Blocks matrix(rows, columns, reader_of(values, columns));
    expect_any_part(matrix);
    const std::vector<float> got = read_all(matrix);
    for (Index row = 0; row < rows; ++row)
      for (Index first = 0; first < columns; first += 64) {
        const Index count = std::min<Index>(64, columns - first), at = row * columns + first;
        std::vector<float> padded(64);
        std::copy_n(values.begin() + at, count, padded.begin());
        const std::vector<float> want = read_all(Nf4Blocks(1, 64, reader_of(padded, 64)));
        ASSERT_TRUE(std::equal(got.begin() + at, got.begin() + at + count, want.begin())) << columns;
      }
  }
}

// Protects against undefined conversions: what is not finite is seen to be broken.
TEST(QuantizedOnLoad, WildValuesAreNotFinite) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float wild : {infinity, -infinity, nan, -nan}) {
    std::vector<float> values(2 * 64, 1.0F);
    values[7] = wild;
    for (const std::vector<float>& got :
         {read_all(Int8Rows(2, 64, reader_of(values, 64))), read_all(Nf4Blocks(2, 64, reader_of(values, 64)))}) {
      for (std::size_t i = 0; i < 64; ++i) EXPECT_TRUE(std::isnan(got[i]));
      for (std::size_t i = 64; i < 128; ++i) EXPECT_NEAR(got[i], 1, 1e-6F);
    }
  }
  for (const float tiny : {std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min()}) {
    const std::vector<float> values(64, tiny);
    for (const std::vector<float>& got :
         {read_all(Int8Rows(1, 64, reader_of(values, 64))), read_all(Nf4Blocks(1, 64, reader_of(values, 64)))})
      for (const float value : got) EXPECT_TRUE(value >= 0 && value <= 2 * tiny) << value;
  }
}

// Protects loads: results do not depend on the number of threads, and a matrix of nothing has no bytes.
TEST(QuantizedOnLoad, TakesAnyThreadsAndEmptyMatrices) {
  const int before = omp_get_max_threads();
  const std::vector<float> values = random_floats(200 * 130);
  std::vector<float> int8[2], nf4[2];
  for (const int threads : {1, 2}) {
    omp_set_num_threads(threads);
    int8[threads - 1] = read_all(Int8Rows(200, 130, reader_of(values, 130)));
    nf4[threads - 1] = read_all(Nf4Blocks(200, 130, reader_of(values, 130)));
  }
  omp_set_num_threads(before);
  EXPECT_EQ(int8[0], int8[1]);
  EXPECT_EQ(nf4[0], nf4[1]);
  EXPECT_EQ(Int8Rows(0, 5, {}).bytes(), 0U);
  EXPECT_EQ(Nf4Blocks(0, 5, {}).bytes(), 0U);
  EXPECT_EQ(Nf4Blocks(5, 0, {}).bytes(), 0U);
  EXPECT_EQ(Int8Rows(5, 0, {}).rows(), 5);
}

}  // namespace
