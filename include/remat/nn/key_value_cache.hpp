// What decoding has seen: the keys and values of earlier tokens, so that the next token costs one position.
#pragma once

#include <algorithm>
#include <remat/core/tensor.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Keys and values of one use of a stack, layer by layer: `stack(x, cache)` reads and extends it. It belongs to the
/// use, never to weights, so that layers which share weights have caches of their own. It holds key/value heads only.
template <class T>
class KeyValueCache {
 public:
  /// Of one layer.
  struct Layer {
    Tensor<T> keys, values;  // [B, capacity, K H]; rows from `length` on are zeros
    Index length = 0;        // positions seen
    Index capacity = 0;      // and how many there may be

    /// Adds keys and values [B, T, K H] behind those that are there. An `Error` that begins with `path` when they do
    /// not fit.
    void append(const Tensor<T>& more_keys, const Tensor<T>& more_values, const std::string& path) {
      const Shape& shape = more_keys.shape();
      if (length == 0 && keys.size() == 0) {
        const Shape whole{shape[0], capacity, shape[2]};
        keys = Tensor<T>(whole, T{0}), values = Tensor<T>(whole, T{0});
      }
      require(keys.shape()[0] == shape[0] && keys.shape()[2] == shape[2], path, ": the cache holds ", keys.shape(),
              ", was given keys of shape ", shape, "; a cache belongs to one use of one stack");
      require(length + shape[1] <= capacity, path, ": the cache has room for ", capacity, " positions, ", length,
              " are taken and ", shape[1], " more were given");
      write_rows(keys, more_keys);
      write_rows(values, more_values);
      length += shape[1];
    }

   private:
    void write_rows(Tensor<T>& whole, const Tensor<T>& more) const {
      AnyTensor any = std::move(whole).any();
      T* const to = reinterpret_cast<T*>(any.mutable_data());
      const Index row = more.shape()[2], rows = more.shape()[1];
      for (Index b = 0; b < more.shape()[0]; ++b)
        std::copy_n(more.data() + b * rows * row, rows * row, to + (b * capacity + length) * row);
      whole = Tensor<T>(std::move(any));
    }
  };

  /// An empty cache for `capacity` positions.
  explicit KeyValueCache(Index capacity) : capacity_(capacity) {
    require(capacity > 0, "key/value cache: capacity ", capacity, " must be > 0");
  }

  /// The positions that the first layer has seen, and with it every layer between two tokens.
  Index length() const { return layers_.empty() ? 0 : layers_.front().length; }
  /// How many positions there may be.
  Index capacity() const { return capacity_; }
  /// What keys and values take in memory.
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const Layer& layer : layers_) sum += layer.keys.any().bytes() + layer.values.any().bytes();
    return sum;
  }
  /// The part of layer `i`, made when it is first asked for.
  Layer& layer(std::size_t i) {
    while (layers_.size() <= i) layers_.push_back({.keys = {}, .values = {}, .capacity = capacity_});
    return layers_[i];
  }

 private:
  Index capacity_;
  std::vector<Layer> layers_;
};

}}}  // namespace remat::nn
