// Which samples share a row of a batch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <remat/core/error.hpp>
#include <remat/core/shape.hpp>
#include <remat/core/token_samples.hpp>
#include <span>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace data::detail {

/// Rows of samples. Each row has at least one.
struct PackedRows {
  std::vector<std::vector<Index>> rows{};  // numbers of samples
  Index positions = 0;                     // of all samples

  Index size() const { return static_cast<Index>(rows.size()); }
  std::span<const Index> operator[](Index row) const { return rows[static_cast<std::size_t>(row)]; }
};

/// How samples fill rows.
enum class Fill {
  one_a_row,
  in_order,  // a row takes samples until one does not fit
  best_fit   // the longest first, each into the fullest row that has room: least padding
};

/// The samples `order` in rows of `length` positions. `name` stands for them in errors.
inline PackedRows pack(const TokenSamples& samples, std::span<const Index> order, Index length, Fill fill,
                       const std::string& name) {
  struct Item {
    Index sample, positions;
  };
  PackedRows packed;
  std::vector<Item> items;
  items.reserve(order.size());
  for (const Index i : order) {
    const Index positions = samples[i].positions();
    require(positions <= length, name, ": sample ", i, " needs ", positions, " positions, but rows have ", length,
            "; cut the samples to a context of ", length, " when they are made");
    items.push_back({i, positions});
    packed.positions += positions;
  }
  if (fill == Fill::best_fit)
    std::stable_sort(items.begin(), items.end(),
                     [](const Item& a, const Item& b) { return a.positions > b.positions; });
  std::multimap<Index, std::size_t> with_room;  // by the positions that are left
  for (const auto& [sample, positions] : items) {
    const auto found = fill == Fill::one_a_row ? with_room.end() : with_room.lower_bound(positions);
    std::size_t row = packed.rows.size();
    Index room = length;
    if (found != with_room.end()) {
      room = found->first;
      row = found->second;
      with_room.erase(found);
    } else {
      packed.rows.emplace_back();
      if (fill == Fill::in_order) with_room.clear();
    }
    packed.rows[row].push_back(sample);
    if (room > positions) with_room.emplace(room - positions, row);
  }
  return packed;
}

}}}  // namespace remat::data::detail
