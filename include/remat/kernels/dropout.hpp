// Dropout factors for a run of elements: Philox over several blocks side by side.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <remat/core/random.hpp>
#include <remat/core/shape.hpp>
#include <remat/kernels/vector.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// words[4 * i + w] = word w of stream.block(block + i) for one block a lane in each of Chains registers.
template <int Chains>
void philox_words(const RandomStream& stream, std::uint64_t block, std::uint32_t* words) {
  // 32-bit counters in 64-bit lanes: the whole product is there without widening.
  using V = Vector<std::uint64_t>::type;
  constexpr int width = Vector<std::uint64_t>::width;
  constexpr std::uint64_t low_half = 0xFFFFFFFF;
  V c0[Chains], c1[Chains], c2[Chains], c3[Chains];
  for (int chain = 0; chain < Chains; ++chain) {
    V counter{};
    for (int i = 0; i < width; ++i) counter[i] = block + static_cast<std::uint64_t>(chain * width + i);
    c0[chain] = counter & low_half;
    c1[chain] = counter >> 32;
    c2[chain] = V{} + std::uint64_t{stream.site};
    c3[chain] = V{} + std::uint64_t{stream.step};
  }
  auto k0 = static_cast<std::uint32_t>(stream.seed), k1 = static_cast<std::uint32_t>(stream.seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
#pragma GCC unroll 2
    for (int chain = 0; chain < Chains; ++chain) {
      const V low = c0[chain] * std::uint64_t{0xD2511F53}, high = c2[chain] * std::uint64_t{0xCD9E8D57};
      c0[chain] = (high >> 32) ^ c1[chain] ^ std::uint64_t{k0};
      c1[chain] = high & low_half;
      c2[chain] = (low >> 32) ^ c3[chain] ^ std::uint64_t{k1};
      c3[chain] = low & low_half;
    }
  }
  const auto interleave = [words]<int... Lane>(const V& even, const V& odd, int at,
                                               std::integer_sequence<int, Lane...>) {
    const V first = __builtin_shufflevector(even, odd, (Lane / 2 + Lane % 2 * width)...);
    const V second = __builtin_shufflevector(even, odd, (Lane / 2 + width / 2 + Lane % 2 * width)...);
    std::memcpy(words + at, &first, sizeof(V));
    std::memcpy(words + at + 2 * width, &second, sizeof(V));
  };
  for (int chain = 0; chain < Chains; ++chain)
    interleave(c0[chain] | c1[chain] << 32, c2[chain] | c3[chain] << 32, 4 * width * chain,
               std::make_integer_sequence<int, width>{});
}

/// factors[i] is 0 or 1 / (1 - rate) by word first + i of the stream, for i < count.
template <class T>
void dropout_factors(const DropoutMask& mask, std::uint64_t first, Index count, T* factors) {
  constexpr int width = Vector<std::uint64_t>::width;
  const std::uint32_t threshold = mask.threshold();
  const T kept = static_cast<T>(mask.scale());
  const std::uint64_t end = first + static_cast<std::uint64_t>(count);
  for (std::uint64_t at = first; at < end;) {
    const std::uint64_t block = at / 4;
    const bool both = end > (block + width) * 4;
    std::uint32_t words[8 * width];
    both ? philox_words<2>(mask.stream, block, words) : philox_words<1>(mask.stream, block, words);
    const std::uint64_t next = std::min(end, (block + (both ? 2 * width : width)) * 4);
    const std::uint32_t* from = words + at % 4;
    T* to = factors + (at - first);
    const auto made = static_cast<int>(next - at);
    for (int i = 0; i < made; ++i) to[i] = from[i] >= threshold ? kept : T{0};
    at = next;
  }
}

}}}  // namespace remat::kernels
