// Blocks of NF4 as floats.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <remat/core/config.hpp>
#include <remat/kernels/quantized/spread_bytes.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::detail {

/// The 16 values of NF4: quantiles of a normal distribution, scaled to [-1, 1], 0 among them.
inline constexpr float nf4_values[16] = {
    -1.0F,
    -0.6961928009986877F,
    -0.5250730514526367F,
    -0.39491748809814453F,
    -0.28444138169288635F,
    -0.18477343022823334F,
    -0.09105003625154495F,
    0.0F,
    0.07958029955625534F,
    0.16093020141124725F,
    0.24611230194568634F,
    0.33791524171829224F,
    0.44070982933044434F,
    0.5626170039176941F,
    0.7229568362236023F,
    1.0F,
};

/// Elements of a block.
inline constexpr int nf4_block = 64;

#if defined(__AVX2__)

// A word of four bytes has eight codes, the upper half of a byte first: each lane shifts its own to the lowest bits,
// and permutations of the values read no others.

/// to[i] = `scale` times the value of code i of a block.
[[gnu::always_inline]] inline void decode_nf4_block(const std::uint8_t* from, float scale, float* to) {
#if defined(__AVX512F__)
  typedef std::uint32_t Words __attribute__((vector_size(64)));
  const __m512i twice_eight = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m512 values = _mm512_loadu_ps(nf4_values), scales = _mm512_set1_ps(scale);
#pragma GCC unroll 4
  for (int i = 0; i < nf4_block; i += 16) {
    std::int64_t bytes;
    std::memcpy(&bytes, from + i / 2, sizeof bytes);
    const __m512i both = _mm512_maskz_permutexvar_epi32(all_lanes, twice_eight, _mm512_set1_epi64(bytes));
    const Words codes =
        reinterpret_cast<Words>(both) >> Words{4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24};
    const __m512 chosen = _mm512_maskz_permutexvar_ps(all_lanes, reinterpret_cast<__m512i>(codes), values);
    _mm512_storeu_ps(to + i, _mm512_mul_ps(chosen, scales));
  }
#else
  typedef std::uint32_t Words __attribute__((vector_size(32)));
  const __m256 low = _mm256_loadu_ps(nf4_values), high = _mm256_loadu_ps(nf4_values + 8);
  const __m256 scales = _mm256_set1_ps(scale);
#pragma GCC unroll 8
  for (int i = 0; i < nf4_block; i += 8) {
    int bytes;
    std::memcpy(&bytes, from + i / 2, sizeof bytes);
    const Words codes = reinterpret_cast<Words>(_mm256_set1_epi32(bytes)) >> Words{4, 0, 12, 8, 20, 16, 28, 24};
    const auto indices = reinterpret_cast<__m256i>(codes);
    const __m256 chosen =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, indices), _mm256_permutevar8x32_ps(high, indices),
                         reinterpret_cast<__m256>(codes << 28));  // by its fourth bit
    _mm256_storeu_ps(to + i, _mm256_mul_ps(chosen, scales));
  }
#endif
}

#else

/// The values of each byte, that of its upper half first.
struct Nf4Pairs {
  float values[256][2];
  constexpr Nf4Pairs() : values{} {
    for (int byte = 0; byte < 256; ++byte) {
      values[byte][0] = nf4_values[byte / 16];
      values[byte][1] = nf4_values[byte % 16];
    }
  }
};
inline constexpr Nf4Pairs nf4_pairs;

/// to[i] = `scale` times the value of code i of a block.
inline void decode_nf4_block(const std::uint8_t* from, float scale, float* to) {
#pragma GCC unroll 4
  for (int i = 0; i < nf4_block; i += 2) std::memcpy(to + i, nf4_pairs.values[from[i / 2]], 2 * sizeof(float));
#pragma omp simd
  for (int i = 0; i < nf4_block; ++i) to[i] *= scale;
}

#endif

}}}  // namespace remat::kernels::detail
