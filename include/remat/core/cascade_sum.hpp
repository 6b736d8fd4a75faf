// Long sums in steps, so that rounding errors do not grow with their length.
#pragma once

#include <algorithm>
#include <remat/core/shape.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Sums of `width` numbers side by side. 64 terms are added in order, then 64 such sums, and so on, like the digits of
/// a counter: no number goes through more than 64 additions a step (pairwise summation, Higham 1993, in longer steps).
/// Up to 64 terms it is the plain sum. Never inlined: in the loops that call it, it is the rare case.
template <class T, Index width = 1>
class CascadeSum {
 public:
  static constexpr Index step = 64;  // terms to a sum, and such sums to the next

  /// Adds a term of n <= width numbers, the same n each time.
  [[gnu::noinline]] void add(const T* term, Index n = width) {
    add_to(0, term, n);
    Index count = ++count_;
    for (int level = 0; count % step == 0 && level + 1 < levels; ++level, count /= step) {
      add_to(level + 1, sums_[level], n);
      std::fill_n(sums_[level], n, T{});
    }
  }
  /// The sum of all terms, the last call.
  [[gnu::noinline]] const T* total(Index n = width) {
    if (used_ == 0) std::fill_n(sums_[0], n, T{});
    for (int level = 1; level < used_; ++level)
      for (Index j = 0; j < n; ++j) sums_[0][j] += sums_[level][j];
    return sums_[0];
  }

 private:
  void add_to(int level, const T* term, Index n) {
    T* const sum = sums_[level];
    if (level == used_) {
      std::copy_n(term, n, sum);
      ++used_;
    } else {
      for (Index j = 0; j < n; ++j) sum[j] += term[j];
    }
  }

  static constexpr int levels = 6;  // enough for 64^6 terms
  T sums_[levels][width];
  int used_ = 0;
  Index count_ = 0;
};

}}  // namespace remat
