// Parts of a matrix that low-rank adapters are of.
#pragma once

#include <remat/core/shape.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Columns of a matrix that several layers' matrices make up side by side, as one projection for queries, keys and
/// values: those of one of them.
struct MatrixPart {
  std::string name;          // of the layer: "query"
  Index begin = 0, end = 0;  // columns [begin, end)

  friend bool operator==(const MatrixPart&, const MatrixPart&) = default;
};

/// Where an adapter of rank R has what one part of w [D, F] is adapted by: the downs of all parts lie side by side,
/// and so do the ups.
struct AdaptedColumns {
  Index of_down, rank;  // the first of R columns of down [D, P R]
  Index of_up, of_w;    // the first column of up [R, U], and of w
  Index width;          // the number of columns of each
};
/// `work(columns)` for each of the parts, in order; where there are none, once for all `outputs` columns of w.
template <class Work>
void each_part(const std::vector<MatrixPart>& parts, Index rank, Index outputs, Work&& work) {
  if (parts.empty()) return work(AdaptedColumns{0, rank, 0, 0, outputs});
  Index of_down = 0, of_up = 0;
  for (const MatrixPart& part : parts) {
    work(AdaptedColumns{of_down, rank, of_up, part.begin, part.end - part.begin});
    of_down += rank, of_up += part.end - part.begin;
  }
}
/// U, the columns of all parts together.
inline Index adapted_columns(const std::vector<MatrixPart>& parts, Index outputs) {
  Index columns = 0;
  each_part(parts, 0, outputs, [&](const AdaptedColumns& c) { columns += c.width; });
  return columns;
}

}}  // namespace remat
