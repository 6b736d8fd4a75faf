// In which order a file has the rows of a matrix [outputs, inputs].
#pragma once

#include <remat/core/shape.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Where it is another than ours.
struct RowOrder {
  Index paired_heads = 0;  // rows of so many heads, those that rotary turns together side by side: 2 i and 2 i + 1 of a
                           // head, where ours are i and i + H / 2; 0: as ours
  Index qkv_heads = 0, qkv_groups = 0;  // rows of so many query heads and key/value heads, each key/value head behind
                                        // the query heads that look at it, first the key, then the value; ours are all
                                        // query heads, all keys, all values. 0: as ours

  /// Is it ours?
  bool is_ours() const { return paired_heads == 0 && qkv_groups <= 1; }
  /// Are `rows` rows whole heads?
  bool fits(Index rows) const {
    const Index heads = qkv_heads + 2 * qkv_groups;
    return paired_heads >= 0 && (paired_heads == 0 || rows % (2 * paired_heads) == 0) && heads >= 0 &&
           (qkv_groups == 0 || (rows % heads == 0 && qkv_heads % qkv_groups == 0));
  }
  /// The row of the file in which row `row` of our `rows` lies.
  Index stored(Index row, Index rows) const {
    if (qkv_groups > 1) {
      const Index dims = rows / (qkv_heads + 2 * qkv_groups), group = qkv_heads / qkv_groups, head = row / dims;
      const Index behind = head - qkv_heads;  // of the queries
      const Index place = behind < 0            ? head / group * (group + 2) + head % group
                          : behind < qkv_groups ? behind * (group + 2) + group
                                                : (behind - qkv_groups) * (group + 2) + group + 1;
      return place * dims + row % dims;
    }
    if (paired_heads == 0) return row;
    const Index half = rows / paired_heads / 2, within = row % (2 * half);
    return row - within + within % half * 2 + within / half;
  }
  /// The row of ours that row `row` of the file's `rows` is.
  Index ours(Index row, Index rows) const {
    if (qkv_groups > 1) {
      const Index dims = rows / (qkv_heads + 2 * qkv_groups), group = qkv_heads / qkv_groups, head = row / dims;
      const Index of = head / (group + 2), within = head % (group + 2);
      const Index place = within < group ? of * group + within : qkv_heads + (within - group) * qkv_groups + of;
      return place * dims + row % dims;
    }
    if (paired_heads == 0) return row;
    const Index half = rows / paired_heads / 2, within = row % (2 * half);
    return row - within + within / 2 + within % 2 * half;
  }
};

}}}  // namespace remat::kernels
