// What one attention call computes, and what its tiles share: visibility, scratch, dropout.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <remat/core/random.hpp>
#include <remat/kernels/attention/tile.hpp>

namespace remat::inline REMAT_ABI::kernels {

/// softmax(scale q k^T, masked) v for `heads` query heads over `kv_heads` key/value heads (heads % kv_heads == 0; query
/// head n reads key/value head n / (heads / kv_heads)). T is float or double; any size may be 0.
template <class T>
struct AttentionProblem {
  Index batch = 0, query_length = 0, key_length = 0, heads = 1, kv_heads = 1, head_dims = 0;
  /// Elements from token to token and from batch entry to batch entry; from head to head it is `head_dims`.
  Index q_token = 0, k_token = 0, v_token = 0, out_token = 0;
  Index q_batch = 0, k_batch = 0, v_batch = 0, out_batch = 0;
  double scale = 1;
  /// Query t sees key s iff s <= t + offset; offset is the position of query 0 minus the position of key 0.
  bool causal = false;
  Index offset = 0;
  /// On probabilities; the element (b, n, t, s) has coordinate ((b * heads + n) * query_length + t) * key_length + s.
  DropoutMask dropout{};
};

namespace attention {

/// Query heads per key/value head.
template <class T>
Index group_heads(const AttentionProblem<T>& problem) {
  return problem.kv_heads == 0 ? 0 : problem.heads / problem.kv_heads;
}

inline Index tiles(Index length) { return (length + tile_rows - 1) / tile_rows; }

/// One past the last key that any of the queries before `query_end` sees.
template <class T>
Index key_end(const AttentionProblem<T>& problem, Index query_end) {
  return problem.causal ? std::clamp<Index>(query_end + problem.offset, 0, problem.key_length) : problem.key_length;
}

/// The first query that sees any key from `key` on.
template <class T>
Index query_begin(const AttentionProblem<T>& problem, Index key) {
  return problem.causal ? std::clamp<Index>(key - problem.offset, 0, problem.query_length) : 0;
}

/// Threads that `tasks` independent tasks can use here; nested calls stay serial.
inline int team(Index tasks) {
  return omp_in_parallel() != 0 ? 1 : static_cast<int>(std::clamp<Index>(tasks, 1, omp_get_max_threads()));
}

/// Hands out pieces of scratch that keep 64-byte alignment; over a null pointer it only counts.
template <class T>
class Carver {
 public:
  explicit Carver(void* base = nullptr) : base_(static_cast<std::byte*>(base)) {}
  T* take(Index elements) {
    std::byte* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (static_cast<std::size_t>(elements) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// The dropout coordinate of (b, n, t, s).
template <class T>
std::uint64_t coordinate(const AttentionProblem<T>& problem, Index b, Index n, Index t, Index s) {
  const auto row = static_cast<std::uint64_t>((b * problem.heads + n) * problem.query_length + t);
  return row * static_cast<std::uint64_t>(problem.key_length) + static_cast<std::uint64_t>(s);
}

}  // namespace attention
}  // namespace remat::inline REMAT_ABI::kernels
