// A hash table of 64-bit keys, for the lookups that encoding is made of.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <remat/core/config.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// Keys to small values, in one array; nothing is ever removed. The key of all ones is not for use.
template <class Value>
class FlatMap {
 public:
  explicit FlatMap(std::size_t count = 0) { slots_.resize(std::bit_ceil(2 * count + 2)); }

  const Value* find(std::uint64_t key) const {
    for (std::size_t at = place(key);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].key == key) return &slots_[at].value;
      if (slots_[at].key == empty) return nullptr;
    }
  }
  /// The value of `key`, a new one if there was none: `is_new` says so.
  Value& insert(std::uint64_t key, bool& is_new) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    std::size_t at = place(key);
    while (slots_[at].key != key && slots_[at].key != empty) at = (at + 1) & (slots_.size() - 1);
    is_new = slots_[at].key == empty;
    if (is_new) ++count_, slots_[at].key = key;
    return slots_[at].value;
  }

 private:
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = empty;
    Value value{};
  };

  std::size_t place(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> 32) & (slots_.size() - 1);
  }
  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.key != empty) {
        std::size_t at = place(slot.key);
        while (slots_[at].key != empty) at = (at + 1) & (slots_.size() - 1);
        slots_[at] = slot;
      }
  }

  std::vector<Slot> slots_{};
  std::size_t count_ = 0;
};

}}}  // namespace remat::text::detail
