// Elements named by number along an axis: taken, and summed where they were taken from.
#pragma once

#include <cstdint>
#include <remat/core/numbers.hpp>
#include <remat/kernels/axis_runs.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// y [outer, count, inner] = the elements of x [outer, length, inner] at `indices` [outer, count, inner] along the
/// axis.
template <class T>
void take_along(const AxisRuns& x_runs, Index count, const T* x, const std::int32_t* indices, T* y) {
  const Index inner = x_runs.inner, length = x_runs.length;
  x_runs.for_each_strip(count, [=](Index outer, Index column, Index n) {
    const T* from = x + outer * length * inner + column;
    for (Index c = 0; c < count; ++c) {
      const Index row = (outer * count + c) * inner + column;
      for (Index j = 0; j < n; ++j) y[row + j] = from[indices[row + j] * inner + j];
    }
  });
}

/// Where `take_along` would take them from, `terms` are added. Of bfloat16 sums are made in a float `scratch` and
/// rounded once.
template <class T>
struct SumsAlong {
  static constexpr bool is_rounded = !std::is_same_v<T, Accum<T>>;
  AxisRuns runs;  // of what is summed to
  Accum<T>* scratch;

  /// Bytes of scratch for sums of `size` elements.
  static std::size_t bytes(Index size) { return is_rounded ? checked_bytes(size, sizeof(Accum<T>), "scratch") : 0; }

  /// to = start (null: 0) + terms. `to` may be `start`. Each task owns some lines and meets their terms in order: no
  /// two write one element, and every sum has one order.
  void add(const T* start, Index count, const std::int32_t* indices, const T* terms, T* to) const {
    Accum<T>* const sums = [&] {
      if constexpr (is_rounded)
        return scratch;
      else
        return to;
    }();
    const Index inner = runs.inner, length = runs.length;
    runs.for_each_strip(length + count,
                        [=, each = numbers(terms), rounded = numbers(to)](Index outer, Index column, Index n) {
                          const auto for_each_sum = [=](auto&& body) {
                            for (Index i = outer * length; i < (outer + 1) * length; ++i)
                              for (Index j = i * inner + column; j < i * inner + column + n; ++j) body(j);
                          };
                          if (start == nullptr)
                            for_each_sum([=](Index j) { sums[j] = 0; });
                          else
                            for_each_sum([=, first = numbers(start)](Index j) { sums[j] = first[j]; });
                          Accum<T>* const of_outer = sums + outer * length * inner + column;
                          for (Index c = 0; c < count; ++c) {
                            const Index row = (outer * count + c) * inner + column;
                            for (Index j = 0; j < n; ++j) of_outer[indices[row + j] * inner + j] += each[row + j];
                          }
                          if constexpr (is_rounded) for_each_sum([=](Index j) { rounded[j] = sums[j]; });
                        });
  }
};

}}}  // namespace remat::kernels
