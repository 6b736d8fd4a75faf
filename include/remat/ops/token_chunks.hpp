// Chunks of tokens whose logits exist at one time, and the memory that takes.
#pragma once

#include <remat/kernels/rows.hpp>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// Of x [..., D], classes and a chunk of tokens, or 0 for one by size.
template <class T>
struct TokenChunks {
  static constexpr bool is_rounded = !std::is_same_v<T, Accum<T>>;
  Index tokens, features, classes, chunk;

  TokenChunks(const Shape& x_shape, Index logits, Index wanted_chunk)
      : tokens(x_shape.drop_last().size()), features(x_shape.back()), classes(logits), chunk(wanted_chunk) {
    if (chunk == 0) {
      constexpr Index elements = (Index{8} << 20) / static_cast<Index>(sizeof(Accum<T>));
      // Each chunk reads w and its gradient once: for fewer tokens that costs much of the time of the products.
      const Index most = std::max<Index>(256, elements / std::max<Index>(1, classes));
      const Index count = std::max<Index>(1, (tokens + most - 1) / most);
      chunk = (tokens + count - 1) / count;  // of equal length
    }
    chunk = std::clamp<Index>(chunk, 1, std::max<Index>(1, tokens));
  }
  /// At least once: of no tokens there are gradients, too.
  template <class F>
  void for_each_chunk(F&& body) const {
    for (Index first = 0; first == 0 || first < tokens; first += chunk) body(first, std::min(chunk, tokens - first));
  }
  std::size_t logits_bytes() const {
    return checked_bytes(checked_mul(chunk, classes, "scratch"), sizeof(Accum<T>), "scratch");
  }
  /// Of the gradients of logits rounded to T, if they are, with what aligns the floats behind them.
  std::size_t rounded_bytes() const { return is_rounded ? round_up(logits_bytes() / 2) : 0; }
  /// For sums over the tokens of a chunk: the last may be cut into more blocks than a longer one.
  std::size_t sums_bytes() const {
    return std::max(kernels::RowBlocks(chunk).bytes<Accum<T>>(classes),
                    kernels::RowBlocks(tokens % chunk).bytes<Accum<T>>(classes));
  }
};

}}}  // namespace remat::ops
