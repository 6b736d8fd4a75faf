// The backward of normalizations over rows.
#pragma once

#include <remat/kernels/rows.hpp>

namespace remat::inline REMAT_ABI::kernels {

/// Gradients of normalized rows [..., d], whose own are dy. Null: not there, or not wanted.
template <class T, template <class> class Row>
struct NormGradients {
  using A = Accum<T>;
  Index d = 0;
  const T *dy = nullptr, *x = nullptr;               // x: what was normalized; read for dx and dscale
  const A *statistics = nullptr, *scales = nullptr;  // scales: read for dx
  const T* dskip = nullptr;                          // what dx begins with, perhaps dx itself
  T* dx = nullptr;                                   // may lie where dy does

  /// Row i: adds to dscale [d] and dbias [d], and writes dx.
  template <class Weight>
  void operator()(Index i, Weight weight, A* dscale, A* dbias) const {
    if (dy == nullptr) return finish(i, [](Index) { return A{0}; });  // what was normalized is used, the result is not
    const auto g = [row = numbers(dy + i * d)](Index j) -> A { return row[j]; };
    if (dbias != nullptr) add_row(g, dbias);
    if (x == nullptr) return;
    const auto row = Row<A>::read(statistics + i * Row<A>::statistics);
    const auto normal = row.normal([from = numbers(x + i * d)](Index j) -> A { return from[j]; });
    if (dscale != nullptr) add_row([=](Index j) { return g(j) * normal(j); }, dscale);
    const auto weighted = [=](Index j) { return g(j) * weight(j); };
    if (dx != nullptr) finish(i, row.gradient(normal, weighted, d));
  }

 private:
  template <class F>
  void add_row(F term, A* to) const {
#pragma omp simd
    for (Index j = 0; j < d; ++j) to[j] += term(j);
  }
  template <class F>
  void finish(Index i, F gradient) const {
    if (dx == nullptr) return;
    const auto to = numbers(dx + i * d);
    with_row(dskip == nullptr ? nullptr : dskip + i * d, A{0}, [&](auto before) {
#pragma omp simd
      for (Index j = 0; j < d; ++j) to[j] = before(j) + gradient(j);
    });
  }
};

}  // namespace remat::inline REMAT_ABI::kernels
