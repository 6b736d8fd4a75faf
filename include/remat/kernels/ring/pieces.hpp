// Ring attention's rotation: which piece of keys meets which queries when, and what travels between ranks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <remat/core/sequence_ring.hpp>
#include <remat/kernels/attention.hpp>
#include <span>
#include <type_traits>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace kernels::ring {

/// Rows of the batch whose keys travel together: as many as one message of a MiB holds, so that buffers stay small.
template <class T>
Index rows_together(const AttentionProblem<T>& p) {
  constexpr Index most = Index{1} << 20;
  const Index row = p.key_length * p.kv_heads * p.head_dims * static_cast<Index>(sizeof(T));  // keys and values of half
  return std::clamp<Index>(most / std::max<Index>(1, row), 1, std::max<Index>(1, p.batch));
}

/// The problem of one piece of queries against one piece of keys that lie together, in sizes alone.
template <class T>
AttentionProblem<T> pair_sizes(const AttentionProblem<T>& p) {
  AttentionProblem<T> pair = p;
  pair.batch = rows_together(p);
  pair.query_length = p.query_length / 2, pair.key_length = p.key_length / 2;
  pair.k_token = pair.v_token = p.kv_heads * p.head_dims;
  pair.k_batch = pair.v_batch = pair.key_length * pair.k_token;
  return pair;
}

/// Keys, values and segments of one piece, and in backward what is summed of their gradients, in one run of bytes.
template <class T>
struct KeyValueBlock {
  std::byte* begin;
  T *k, *v;                // [rows, S, K, H]
  std::int32_t* segments;  // [rows, S]; zeros where there are none
  std::size_t key_bytes;
  std::byte* gradients;
  Accum<T>*dk, *dv;
  std::size_t gradient_bytes;

  KeyValueBlock(const AttentionProblem<T>& pair, bool with_gradients, attention::ScratchArena& arena)
      : begin(arena.take<std::byte>(0)) {
    const Index tokens = pair.batch * pair.key_length, size = tokens * pair.k_token;
    std::size_t used = arena.used();
    k = arena.take<T>(size), v = arena.take<T>(size);
    segments = arena.take<std::int32_t>(tokens);
    key_bytes = arena.used() - used;
    used = arena.used();
    gradients = arena.take<std::byte>(0);
    dk = arena.take<Accum<T>>(with_gradients ? size : 0), dv = arena.take<Accum<T>>(with_gradients ? size : 0);
    gradient_bytes = arena.used() - used;
  }
};

/// Would adding up in an array of T round every sum?
template <class T>
inline constexpr bool is_rounded = !std::is_same_v<T, Accum<T>>;

/// Calls `body(b, t, i)` for the tokens of one half of each row: token t of a part of row b, and number i of them all.
template <class F>
void each_token(Index rows, Index length, Index half, Index work, F&& body) {
  parallel_for(rows * length, row_grain(work), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) body(i / length, half * length + i % length, i);
  });
}

/// What both passes hold beside the kernel's own scratch.
template <class T>
struct Buffers {
  AttentionProblem<T> pair;  // sizes
  KeyValueBlock<T> here, next;
  std::int32_t *key_lengths, *prefix_lengths, *query_offsets;  // [rows], as one pair of pieces sees them
  std::int32_t* query_segments;                                // [2][rows, T]

  Buffers(const AttentionProblem<T>& p, bool with_gradients, attention::ScratchArena& arena)
      : pair(pair_sizes(p)), here(pair, with_gradients, arena), next(pair, with_gradients, arena) {
    for (std::int32_t** numbers : {&key_lengths, &prefix_lengths, &query_offsets})
      *numbers = arena.take<std::int32_t>(pair.batch);
    query_segments = arena.take<std::int32_t>(2 * pair.batch * pair.query_length);
  }
};

/// Rows [first_row, first_row + rows) of the batch on their way round the ring. All ranks do alike, each with its own
/// queries: first the keys of each rank's first piece come by, then those of the second, always from the rank before.
template <class T>
class Rotation {
 public:
  Rotation(const AttentionProblem<T>& problem, SequenceRing& ranks, Buffers<T>& scratch, Index first_row)
      : p(problem),
        ring_(ranks),
        buffers_(scratch),
        queries_(ranks.pieces(problem.query_length)),
        keys_(ranks.pieces(problem.key_length)),
        first_row_(first_row),
        rows_(std::min(scratch.pair.batch, problem.batch - first_row)) {
    if (p.query_segments == nullptr) return;
    for (Index half = 0; half < 2; ++half)
      copy_pieces(p.query_segments, p.query_length, half, buffers_.query_segments + half * segments_of_half());
  }

  Index rows() const { return rows_; }

  /// Calls `attend(half, pair, block, is_first)` for this rank's first (half 0) or second piece of queries and each
  /// piece of keys that the masks by position let them see, and once for each half with is_first, whatever it sees;
  /// with gradients also `finish(half, block)` when those of the rank's own keys are whole.
  template <class Attend, class Finish>
  void run(const T* k, const T* v, bool with_gradients, Attend&& attend, Finish&& finish) {
    const Index ranks = ring_.size(), rank = ring_.rank();
    for (Index half = 0; half < 2; ++half) {
      pack(k, v, half, with_gradients);
      for (Index step = 0; step < ranks; ++step) {
        const Index owner = (rank - step + ranks) % ranks;
        for (const Index of : {Index{0}, Index{1}}) {
          const AttentionProblem<T> pair = pair_of(of, half == 0 ? owner : keys_.count - 1 - owner);
          const bool is_first = half == 0 && step == 0;
          if (is_first || sees_any(pair)) attend(of, pair, buffers_.here, is_first);
        }
        pass(step + 1 < ranks, with_gradients);
      }
      if (with_gradients) finish(half, buffers_.here);
    }
  }

 private:
  Index segments_of_half() const { return rows_ * buffers_.pair.query_length; }

  /// Of numbers [B, length] those of one half of each row.
  void copy_pieces(const std::int32_t* from, Index length, Index half, std::int32_t* to) const {
    for (Index b = 0; b < rows_; ++b)
      std::copy_n(from + (first_row_ + b) * length + half * (length / 2), length / 2, to + b * (length / 2));
  }

  void pack(const T* k, const T* v, Index half, bool with_gradients) {
    const AttentionProblem<T>& pair = buffers_.pair;
    KeyValueBlock<T>& own = buffers_.here;
    const Index tokens = rows_ * pair.key_length, size = pair.k_token;
    parallel_for(tokens, row_grain(2 * size), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Index b = first_row_ + i / pair.key_length, s = half * pair.key_length + i % pair.key_length;
        std::copy_n(k + b * p.k_batch + s * p.k_token, size, own.k + i * size);
        std::copy_n(v + b * p.v_batch + s * p.v_token, size, own.v + i * size);
      }
    });
    if (p.key_segments != nullptr)
      copy_pieces(p.key_segments, p.key_length, half, own.segments);
    else
      std::fill_n(own.segments, tokens, 0);
    if (!with_gradients) return;
    std::fill_n(own.dk, tokens * size, Accum<T>{0});
    std::fill_n(own.dv, tokens * size, Accum<T>{0});
  }

  /// Keys go one rank on, but for the last step, when their gradients alone are still to come home.
  void pass(bool with_keys, bool with_gradients) {
    if (!with_keys && !with_gradients) return;
    KeyValueBlock<T>&from = buffers_.here, &to = buffers_.next;
    const std::size_t bytes = (with_keys ? from.key_bytes : 0) + (with_gradients ? from.gradient_bytes : 0);
    ring_.pass({with_keys ? from.begin : from.gradients, bytes}, {with_keys ? to.begin : to.gradients, bytes});
    std::swap(from, to);
  }

  /// Piece `of` of this rank's queries against piece number `piece` of all keys.
  AttentionProblem<T> pair_of(Index of, Index piece) const {
    AttentionProblem<T> pair = buffers_.pair;
    const Index query = of == 0 ? queries_.first : queries_.second;
    const Index before_queries = query * queries_.length, before_keys = piece * keys_.length;
    pair.batch = rows_;
    pair.offset = p.offset + before_queries - before_keys;
    pair.key_position = p.key_position + before_keys;
    pair.dropout.first += static_cast<std::uint64_t>(first_row_ * p.heads * queries_.whole() * keys_.whole());
    pair.dropout_first_query = before_queries, pair.dropout_query_length = queries_.whole();
    pair.first_key = before_keys, pair.all_keys = keys_.whole();
    pair.sinks = nullptr;
    // A length may end before this piece begins, or lie far behind it.
    const auto moved = [&](const std::int32_t* numbers, std::int32_t* to, Index by) -> const std::int32_t* {
      if (numbers == nullptr) return nullptr;
      for (Index b = 0; b < rows_; ++b) to[b] = static_cast<std::int32_t>(numbers[first_row_ + b] + by);
      return to;
    };
    pair.key_lengths = moved(p.key_lengths, buffers_.key_lengths, -before_keys);
    pair.prefix_lengths = moved(p.prefix_lengths, buffers_.prefix_lengths, -before_keys);
    pair.query_offsets = moved(p.query_offsets, buffers_.query_offsets, before_queries - before_keys);
    if (p.query_segments != nullptr)
      pair.query_segments = buffers_.query_segments + of * segments_of_half(),
      pair.key_segments = buffers_.here.segments;
    return pair;
  }

  /// Queries see intervals of keys whose ends never move left: where the first begins behind the end of the last, there
  /// is none.
  bool sees_any(const AttentionProblem<T>& pair) const {
    if (pair.query_length == 0 || pair.key_length == 0) return false;
    for (Index b = 0; b < rows_; ++b) {
      const attention::Visibility seen(pair, b);
      if (seen.begin(0) < seen.end(pair.query_length - 1)) return true;
    }
    return false;
  }

  const AttentionProblem<T>& p;
  SequenceRing& ring_;
  Buffers<T>& buffers_;
  SequencePieces queries_, keys_;
  Index first_row_, rows_;
};

}}}  // namespace remat::kernels::ring
