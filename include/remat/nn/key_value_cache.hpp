// What decoding has seen: the keys and values of earlier tokens, so that the next token costs one position.
#pragma once

#include <algorithm>
#include <remat/core/tensor.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Keys and values of one use of a stack, layer by layer: `stack(x, cache)` reads and extends it. It belongs to the
/// use, never to weights, so that layers which share weights have caches of their own. It holds key/value heads only,
/// keys as rotary has turned them, and of a layer with a window no more than the window. Its rows may have seen
/// different numbers of tokens.
template <class T>
class KeyValueCache {
 public:
  /// What new queries look at.
  struct Seen {
    Tensor<T> keys, values;             // [B, S, K H]
    std::vector<std::int32_t> offsets;  // of each row: position of its first new token less that of key 0
  };
  /// Calls `body(data)` to write to `whole`, whose later copies may still share its bytes.
  template <class F>
  static void fill(Tensor<T>& whole, F&& body) {
    AnyTensor any = std::move(whole).any();
    body(reinterpret_cast<T*>(any.mutable_data()));
    whole = Tensor<T>(std::move(any));
  }
  /// Of one layer.
  struct Layer {
    Tensor<T> keys, values;                    // [B, room, K H] each, a row's oldest position first
    Tensor<T> memory_keys{}, memory_values{};  // [B, S, K H] each, of cross attention, projected once
    Index length = 0;                          // positions that the longest row has seen
    Index capacity = 0;                        // and how many there may be
    std::vector<Index> lengths{};              // positions that each row has seen
    std::vector<Index> forgotten{};            // and of those the first ones, which a window has left behind
    std::vector<Index> fresh{};                // of the tokens to come, how many each row has; empty: all of them

    /// Adds keys and values [B, T, K H], which may be of unlike widths, behind those that are there. An `Error` that
    /// begins with `path` when they do not fit.
    void append(const Tensor<T>& more_keys, const Tensor<T>& more_values, const std::string& path) {
      static_cast<void>(add(more_keys, more_values, 0, path));
    }
    /// The same, of row b the first `fresh[b]`, where that is not empty; of a layer that sees keys at distances below
    /// `window` (0: at any).
    Seen add(const Tensor<T>& more_keys, const Tensor<T>& more_values, Index window, const std::string& path);

   private:
    /// Kept beyond the window, so that most tokens move nothing.
    static constexpr Index slack = 16;

    Index kept(std::size_t b) const { return lengths[b] - forgotten[b]; }
    void check(const Shape& shape, const std::string& path) const;
    /// Rows [from, from + count) of row b of `source` to rows [at, at + count) of row b of `whole`.
    static void copy(const Tensor<T>& source, Index b, Index from, Index count, T* whole, Index room, Index at) {
      const Index row = source.shape()[2];
      std::copy_n(source.data() + (b * source.shape()[1] + from) * row, count * row, whole + (b * room + at) * row);
    }
    /// What is kept of `old`, and behind it the new rows, in a tensor with so much room.
    Tensor<T> joined(const Tensor<T>& old, const Tensor<T>& more, const std::vector<Index>& counts, Index room) const {
      Tensor<T> whole({more.shape()[0], room, more.shape()[2]}, T{0});
      fill(whole, [&](T* to) {
        for (std::size_t b = 0; b < lengths.size(); ++b) {
          const auto row = static_cast<Index>(b);
          if (kept(b) > 0) copy(old, row, 0, kept(b), to, room, 0);
          copy(more, row, 0, counts[b], to, room, kept(b));
        }
      });
      return whole;
    }
    /// The last `keep` of rows [0, kept + count) of each row of `whole`, in a tensor with so much room.
    Tensor<T> trimmed(const Tensor<T>& whole, const std::vector<Index>& counts, Index keep, Index room) const {
      Tensor<T> part({whole.shape()[0], room, whole.shape()[2]}, T{0});
      fill(part, [&](T* to) {
        for (std::size_t b = 0; b < lengths.size(); ++b) {
          const Index all = kept(b) + counts[b], count = std::min(all, keep);
          copy(whole, static_cast<Index>(b), all - count, count, to, room, 0);
        }
      });
      return part;
    }
    void write_rows(Tensor<T>& whole, const Tensor<T>& more, const std::vector<Index>& counts) const {
      const Index room = whole.shape()[1];
      fill(whole, [&](T* to) {
        for (std::size_t b = 0; b < lengths.size(); ++b)
          copy(more, static_cast<Index>(b), 0, counts[b], to, room, kept(b));
      });
    }
  };

  /// An empty cache for `capacity` positions of each row.
  explicit KeyValueCache(Index capacity) : capacity_(capacity) {
    require(capacity > 0, "key/value cache: capacity ", capacity, " must be > 0");
  }

  /// The positions that the longest row has seen in the first layer, and with it in every layer between two tokens.
  Index length() const { return layers_.empty() ? 0 : layers_.front().length; }
  /// The positions that each row has seen; empty before the first token.
  std::vector<Index> lengths() const { return layers_.empty() ? std::vector<Index>{} : layers_.front().lengths; }
  /// How many positions there may be.
  Index capacity() const { return capacity_; }
  /// What keys and values take in memory.
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const Layer& layer : layers_)
      for (const Tensor<T>* each : {&layer.keys, &layer.values, &layer.memory_keys, &layer.memory_values})
        sum += each->any().bytes();
    return sum;
  }
  /// The part of layer `i`, made when it is first asked for.
  Layer& layer(std::size_t i) {
    while (layers_.size() <= i) layers_.push_back({.keys = {}, .values = {}, .capacity = capacity_, .fresh = fresh_});
    return layers_[i];
  }
  /// Says that of the next tokens [B, T] row b has `counts[b]`, from 0 to T, and padding behind them; empty: all rows
  /// have T. A stack forgets it behind these tokens.
  void expect(const std::vector<Index>& counts) {
    fresh_ = counts;
    for (Layer& layer : layers_) layer.fresh = counts;
  }
  /// The positions that the longest row will have seen with tokens [B, T] more.
  Index length_with(Index more) const {
    if (fresh_.empty()) return length() + more;
    const std::vector<Index> before = lengths();
    Index most = 0;
    for (std::size_t b = 0; b < fresh_.size(); ++b)
      most = std::max(most, (b < before.size() ? before[b] : 0) + fresh_[b]);
    return most;
  }
  /// Row i becomes what row `rows[i]` was: beams that live on, once or several times, or a batch with fewer rows. An
  /// `Error` names a row that is not there.
  void reorder(const std::vector<Index>& rows);

 private:
  Index capacity_;
  std::vector<Layer> layers_;
  std::vector<Index> fresh_;
};

template <class T>
void KeyValueCache<T>::Layer::check(const Shape& shape, const std::string& path) const {
  require(keys.shape()[0] == shape[0] && keys.shape()[2] == shape[2], path, ": the cache holds ", keys.shape(),
          ", was given keys of shape ", shape, "; a cache belongs to one use of one stack");
}

template <class T>
typename KeyValueCache<T>::Seen KeyValueCache<T>::Layer::add(const Tensor<T>& more_keys, const Tensor<T>& more_values,
                                                             Index window, const std::string& path) {
  const Shape& shape = more_keys.shape();
  const auto rows = static_cast<std::size_t>(shape[0]);
  const bool is_new = lengths.empty();
  if (!is_new) check(shape, path);
  require(fresh.empty() || fresh.size() == rows, path, ": the cache expects tokens of ", fresh.size(),
          " rows, was given ", rows);
  const std::vector<Index> counts = fresh.empty() ? std::vector<Index>(rows, shape[1]) : fresh;
  for (std::size_t b = 0; b < rows; ++b) {
    require(counts[b] >= 0 && counts[b] <= shape[1], path, ": row ", b, " was said to have ", counts[b],
            " tokens, there are ", shape[1]);
    const Index taken = is_new ? 0 : lengths[b];
    require(taken + counts[b] <= capacity, path, ": the cache has room for ", capacity, " positions, ", taken,
            " are taken and ", counts[b], " more were given");
  }
  if (is_new) lengths.assign(rows, 0), forgotten.assign(rows, 0);

  Seen seen;
  for (std::size_t b = 0; b < rows; ++b) seen.offsets.push_back(static_cast<std::int32_t>(kept(b)));
  const Index keep = window > 0 ? window - 1 : capacity, room = std::min(capacity, keep + slack);
  Index most = 0;
  for (std::size_t b = 0; b < rows; ++b) most = std::max(most, kept(b) + counts[b]);
  if (is_new && most <= room) {
    keys = Tensor<T>({shape[0], room, shape[2]}, T{0});
    values = Tensor<T>({shape[0], room, more_values.shape()[2]}, T{0});
  }
  if (most <= room) {
    write_rows(keys, more_keys, counts);
    write_rows(values, more_values, counts);
    seen.keys = keys, seen.values = values;
  } else {
    // Queries look at more than stays.
    seen.keys = joined(keys, more_keys, counts, most), seen.values = joined(values, more_values, counts, most);
    keys = trimmed(seen.keys, counts, keep, room), values = trimmed(seen.values, counts, keep, room);
  }
  for (std::size_t b = 0; b < rows; ++b) {
    if (most > room) forgotten[b] = std::max(forgotten[b], lengths[b] + counts[b] - keep);
    lengths[b] += counts[b];
    length = std::max(length, lengths[b]);
  }
  return seen;
}

template <class T>
void KeyValueCache<T>::reorder(const std::vector<Index>& rows) {
  for (Layer& layer : layers_) {
    const auto count = static_cast<Index>(layer.lengths.size());
    const auto picked = [&](auto& of) {
      std::remove_reference_t<decltype(of)> some;
      for (const Index row : rows) some.push_back(of[static_cast<std::size_t>(row)]);
      of = some;
    };
    for (const Index row : rows)
      require(row >= 0 && row < count, "key/value cache: reorder: there is no row ", row, " among ", count);
    for (Tensor<T>* whole : {&layer.keys, &layer.values, &layer.memory_keys, &layer.memory_values}) {
      if (whole->size() == 0) continue;
      const Shape& shape = whole->shape();
      Tensor<T> some({static_cast<Index>(rows.size()), shape[1], shape[2]});
      const Index size = shape[1] * shape[2];
      fill(some, [&](T* to) {
        for (std::size_t i = 0; i < rows.size(); ++i)
          std::copy_n(whole->data() + rows[i] * size, size, to + static_cast<Index>(i) * size);
      });
      *whole = some;
    }
    picked(layer.lengths), picked(layer.forgotten);
    layer.length = rows.empty() ? 0 : *std::max_element(layer.lengths.begin(), layer.lengths.end());
    layer.fresh.clear();
  }
  fresh_.clear();
}

}}}  // namespace remat::nn
