// Blocks of quantized weights: the floats that the format's reference makes of them, and what it makes of floats.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <remat/io/gguf.hpp>
#include <remat/kernels/quantized.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
using kernels::BlockFormat;

const io::GgufFile& golden() {
  static const io::GgufFile file(REMAT_SOURCE_DIR "/tests/golden/gguf_blocks.gguf");
  return file;
}
constexpr BlockFormat all_formats[] = {BlockFormat::f16,  BlockFormat::bf16, BlockFormat::q8_0, BlockFormat::q4_0,
                                       BlockFormat::q4_1, BlockFormat::q5_0, BlockFormat::q5_1, BlockFormat::q4_k,
                                       BlockFormat::q5_k, BlockFormat::q6_k};

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

// Protects every scale: each of the 65536 halves is the number that its bits say, and comes back from it.
TEST(Quantized, EveryHalfIsExact) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = static_cast<int>((bits >> 10) & 31), mantissa = static_cast<int>(bits & 1023);
    const float value = kernels::widen_half(static_cast<std::uint16_t>(bits));
    ASSERT_EQ(std::signbit(value), bits >= 0x8000) << bits;
    const std::uint16_t back = kernels::narrow_half(value);
    if (exponent == 31 && mantissa > 0) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_EQ(back, bits | 0x200U) << bits;
      continue;
    }
    const float magnitude = exponent == 31  ? std::numeric_limits<float>::infinity()
                            : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                            : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
    ASSERT_EQ(std::fabs(value), magnitude) << bits;
    ASSERT_EQ(back, bits);
  }
}

// Protects floats of halves, which an instruction widens where there is one: they are those bits, NaN too.
TEST(Quantized, EveryHalfIsDecodedExactly) {
  constexpr std::size_t count = 65536;
  std::vector<std::byte> bytes(2 * count);
  for (std::uint32_t bits = 0; bits < count; ++bits) std::memcpy(bytes.data() + 2 * bits, &bits, 2);
  for (const Index some : {1, 7, 8, 19, 65536}) {
    std::vector<float> got(count, 123.0F);
    kernels::decode_blocks(BlockFormat::f16, bytes.data(), 65536 - some, some, got.data());
    for (std::size_t i = 0; i < count; ++i) {
      const auto half = static_cast<std::uint16_t>(count - static_cast<std::size_t>(some) + i);
      ASSERT_EQ(bits_of(got[i]), bits_of(i < static_cast<std::size_t>(some) ? kernels::widen_half(half) : 123.0F)) << i;
    }
  }
}

// Protects scales of blocks, which an instruction widens where there is one: subnormal, infinite and NaN ones too.
TEST(Quantized, EveryScaleIsExact) {
  constexpr Index block = 34;
  std::vector<std::byte> bytes(65536 * block, std::byte{1});
  for (std::uint32_t bits = 0; bits < 65536; ++bits) std::memcpy(bytes.data() + bits * block, &bits, 2);
  std::vector<float> got(65536 * 32);
  kernels::decode_blocks(BlockFormat::q8_0, bytes.data(), 0, 65536 * 32, got.data());
  for (std::uint32_t bits = 0; bits < 65536; ++bits)
    for (std::size_t i = 0; i < 32; i += 31) {
      const float want = kernels::widen_half(static_cast<std::uint16_t>(bits)), value = got[bits * 32 + i];
      ASSERT_TRUE(bits_of(value) == bits_of(want) || (std::isnan(value) && std::isnan(want))) << bits;
    }
}

// Protects rounding: between two halves the nearer one is taken, in the middle the even one.
TEST(Quantized, HalvesAreRoundedToNearestEven) {
  for (std::uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = kernels::widen_half(bits), high = kernels::widen_half(static_cast<std::uint16_t>(bits + 1));
    const float middle = (low + high) / 2;  // exact
    const auto next = static_cast<std::uint16_t>(bits + 1), even = bits % 2 == 0 ? bits : next;
    ASSERT_EQ(kernels::narrow_half(middle), even) << bits;
    ASSERT_EQ(kernels::narrow_half(std::nextafter(middle, 0.0F)), bits) << bits;
    ASSERT_EQ(kernels::narrow_half(std::nextafter(middle, 1e9F)), next) << bits;
    ASSERT_EQ(kernels::narrow_half(-middle), even | 0x8000) << bits;
  }
  EXPECT_EQ(kernels::narrow_half(65519.996F), 0x7bff);
  EXPECT_EQ(kernels::narrow_half(65520.0F), 0x7c00);
  EXPECT_EQ(kernels::narrow_half(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_EQ(kernels::narrow_half(std::numeric_limits<float>::denorm_min()), 0);
}

// Protects models that others have quantized: each format's blocks are the reference's floats, bit for bit.
TEST(Quantized, DecodesAsTheReference) {
  for (const BlockFormat format : all_formats) {
    const std::string name = kernels::name_of(format);
    SCOPED_TRACE(name);
    const io::GgufTensor& stored = golden().at(name + ".stored");
    const auto want = golden().read<float>(name + ".values");
    ASSERT_EQ(stored.shape, want.shape());
    std::vector<float> got(static_cast<std::size_t>(want.size()));
    kernels::decode_blocks(format, stored.bytes.data(), 0, want.size(), got.data());
    for (Index i = 0; i < want.size(); ++i)
      ASSERT_EQ(bits_of(got[static_cast<std::size_t>(i)]), bits_of(want[i])) << "element " << i;
  }
}

// Protects products that decode tile by tile: a run that begins anywhere has the elements of the whole, and no others
// are written.
TEST(Quantized, RunsMayBeginAtAnyBlock) {
  for (const BlockFormat format : all_formats) {
    SCOPED_TRACE(kernels::name_of(format));
    const io::GgufTensor& stored = golden().at(std::string(kernels::name_of(format)) + ".stored");
    const Index size = stored.shape.size(), block = kernels::layout_of(format).elements;
    std::vector<float> whole(static_cast<std::size_t>(size)), run(whole.size() + 1);
    kernels::decode_blocks(format, stored.bytes.data(), 0, size, whole.data());
    for (Index first = 0; first < size; first += 3 * block)
      for (const Index blocks : {0, 1, 2, 5, 16, 19, 33}) {  // more than are decoded side by side, too
        const Index count = std::min(blocks * block, (size - first) / block * block);
        std::fill(run.begin(), run.end(), 123.0F);
        kernels::decode_blocks(format, stored.bytes.data(), first, count, run.data());
        const auto end = static_cast<std::size_t>(count);
        ASSERT_EQ(std::memcmp(run.data(), whole.data() + first, end * sizeof(float)), 0) << first << ' ' << count;
        ASSERT_EQ(run[end], 123.0F);
      }
  }
}

// Protects files that others read: what is written are the reference's bytes, halves and their neighbours included.
TEST(Quantized, EncodesAsTheReference) {
  const auto values = golden().read<float>("encode.values");
  for (const BlockFormat format : {BlockFormat::f16, BlockFormat::bf16, BlockFormat::q8_0}) {
    const io::GgufTensor& want = golden().at(std::string("encode.") + kernels::name_of(format));
    ASSERT_EQ(*want.type.format, format);
    std::vector<std::byte> got(want.bytes.size());
    kernels::encode_blocks(format, values.data(), values.size(), got.data());
    EXPECT_EQ(std::memcmp(got.data(), want.bytes.data(), got.size()), 0) << kernels::name_of(format);
  }
}

// Protects against undefined conversions: values beyond all measure make blocks that are seen to be broken.
TEST(Quantized, WildValuesMakeBlocksThatAreNotFinite) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float wild : {infinity, -infinity, nan, -nan, std::numeric_limits<float>::max(), 1e7F}) {
    std::vector<float> x(32, 1.0F), decoded(32);
    x[7] = wild;
    std::byte block[34];
    kernels::encode_blocks(BlockFormat::q8_0, x.data(), 32, block);
    kernels::decode_blocks(BlockFormat::q8_0, block, 0, 32, decoded.data());
    EXPECT_FALSE(std::isfinite(decoded[7])) << wild;
  }
  // Scales below all halves make zeros.
  std::vector<float> tiny(32, std::numeric_limits<float>::denorm_min()), decoded(32, 1.0F);
  std::byte block[34];
  kernels::encode_blocks(BlockFormat::q8_0, tiny.data(), 32, block);
  kernels::decode_blocks(BlockFormat::q8_0, block, 0, 32, decoded.data());
  for (const float value : decoded) EXPECT_EQ(value, 0.0F);
}

}  // namespace
