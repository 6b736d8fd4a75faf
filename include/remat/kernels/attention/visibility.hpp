// Which keys a query sees, by position, and the tiles and blocks that follow from it.
#pragma once

#include <remat/kernels/attention/problem.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// The keys that each query of one batch entry sees by position: an interval whose ends never move left from one query
/// to the next. So the queries that see a key are an interval too, and so are the keys that any of a run of queries
/// sees.
class Visibility {
 public:
  template <class T>
  Visibility(const AttentionProblem<T>& p, Index b)
      : queries_(p.query_length),
        keys_(p.key_lengths == nullptr ? p.key_length : std::clamp<Index>(p.key_lengths[b], 0, p.key_length)),
        prefix_(p.prefix_lengths == nullptr ? 0 : p.prefix_lengths[b]),
        offset_(p.offset_of(b)),
        window_(std::min(p.window, far)),
        right_(std::min(p.window_right > 0 ? p.window_right : p.window, far)),
        causal_(p.causal) {}

  /// Keys that padding leaves.
  Index keys() const { return keys_; }
  /// The first key that query t sees.
  Index begin(Index t) const { return window_ == 0 ? 0 : std::clamp<Index>(t + offset_ - window_ + 1, 0, keys_); }
  /// One past the last key that query t sees.
  [[gnu::always_inline]] Index end(Index t) const {
    Index end = causal_ ? std::max(t + offset_ + 1, prefix_) : keys_;
    if (right_ > 0) end = std::min(end, t + offset_ + right_);
    return std::clamp<Index>(end, 0, keys_);
  }
  /// The first query that sees key s or a later one.
  Index first_query(Index s) const {
    if (s >= keys_) return queries_;
    Index first = causal_ && s >= prefix_ ? s - offset_ : 0;
    if (right_ > 0) first = std::max(first, s - offset_ - right_ + 1);
    return std::clamp<Index>(first, 0, queries_);
  }
  /// One past the last query that sees key s or an earlier one.
  Index last_query(Index s) const {
    return window_ == 0 ? queries_ : std::clamp<Index>(s - offset_ + window_, 0, queries_);
  }

 private:
  static constexpr Index far = Index{1} << 48;  // beyond any position, within any sum
  Index queries_, keys_, prefix_, offset_, window_, right_;
  bool causal_;
};

/// A part of an axis.
struct Stretch {
  Index begin, end;

  Index size() const { return end - begin; }
};

/// A length cut into chunks, and each chunk into tiles of at most `rows`: however large a chunk, it costs no memory.
struct Tiling {
  Index length, chunk, rows = tile_rows;

  Index per_chunk() const { return (chunk + rows - 1) / rows; }
  Index count() const { return length / chunk * per_chunk() + (length % chunk + rows - 1) / rows; }
  Index start(Index i) const { return i / per_chunk() * chunk + i % per_chunk() * rows; }
  Index end(Index i) const { return std::min({start(i) + rows, (i / per_chunk() + 1) * chunk, length}); }
  Index size(Index i) const { return end(i) - start(i); }
  /// The tile that holds element `at`.
  Index holding(Index at) const { return at / chunk * per_chunk() + at % chunk / rows; }
  /// Calls `body(start, size)` for the tiles that meet [begin, end), in order.
  template <class F>
  void each(Index begin, Index end, F&& body) const {
    if (begin >= end) return;
    const Index last = holding(end - 1);
    for (Index i = holding(begin); i <= last; ++i) body(start(i), size(i));
  }
};

/// The chunk asked for, at most all, or a tile if none was.
inline Index chunk_or_tile(Index chunk, Index length, Index tile = tile_rows) {
  return chunk > 0 ? std::min(chunk, std::max<Index>(1, length)) : tile;
}
template <class T>
Tiling query_tiling(const AttentionProblem<T>& p, Index tile = tile_rows) {
  return {p.query_length, chunk_or_tile(p.query_chunk, p.query_length, tile), tile};
}
template <class T>
Tiling key_tiling(const AttentionProblem<T>& p, Index tile = tile_rows) {
  return {p.key_length, chunk_or_tile(p.key_chunk, p.key_length, tile), tile};
}

/// Least and greatest of some ids.
struct IdRange {
  std::int32_t least, greatest;
  IdRange(const std::int32_t* ids, Index count) : least(ids[0]), greatest(ids[0]) {
    for (Index i = 1; i < count; ++i) {
      least = std::min(least, ids[i]);
      greatest = std::max(greatest, ids[i]);
    }
  }
  bool meets(const IdRange& other) const { return least <= other.greatest && other.least <= greatest; }
};

/// Can any of `rows` queries share a segment with any of `keys` keys? Exact where ids are sorted, as those of packed
/// sequences are; else it may say yes in vain.
template <class T>
bool segments_meet(const AttentionProblem<T>& p, Index b, Index t, Index rows, Index s, Index keys) {
  if (p.query_segments == nullptr) return true;
  return IdRange(p.query_segments + b * p.query_length + t, rows)
      .meets(IdRange(p.key_segments + b * p.key_length + s, keys));
}

}}}  // namespace remat::kernels::attention
