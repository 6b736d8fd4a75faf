// The backward of normalizations over rows.
#pragma once

#include <remat/kernels/rows.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Gradients of rows x [..., d] that were normalized, where those of the result are dy. Null: not there, or not wanted.
template <class Y, class X, template <class> class Row>
struct NormGradients {
  using A = Accum<Y>;
  Index d = 0;
  const Y* dy = nullptr;
  const X* x = nullptr;                              // read for dx and dscale
  const A *statistics = nullptr, *scales = nullptr;  // scales: read for dx
  const X* dskip = nullptr;                          // what dx begins with, perhaps dx itself

  /// Row i: adds to dscale [d] and dbias [d], and writes its dx [d], which may lie where that of dy or dskip does.
  template <class Weight>
  void operator()(Index i, Weight weight, X* dx, A* dscale, A* dbias) const {
    if (dy == nullptr)
      return finish(i, dx, [](Index) { return A{0}; });  // what was normalized is used, the result is not
    const auto g = [row = numbers(dy + i * d)](Index j) -> A { return row[j]; };
    if (dbias != nullptr) add_row(g, dbias);
    if (x == nullptr) return;
    const auto row = Row<A>::read(statistics + i * Row<A>::statistics);
    const auto normal = row.normal([from = numbers(x + i * d)](Index j) -> A { return from[j]; });
    if (dscale != nullptr) add_row([=](Index j) { return g(j) * normal(j); }, dscale);
    const auto weighted = [=](Index j) { return g(j) * weight(j); };
    if (dx != nullptr) finish(i, dx, row.gradient(normal, weighted, d));
  }

 private:
  template <class F>
  void add_row(F term, A* to) const {
#pragma omp simd
    for (Index j = 0; j < d; ++j) to[j] += term(j);
  }
  template <class F>
  void finish(Index i, X* dx, F gradient) const {
    if (dx == nullptr) return;
    const auto to = numbers(dx);
    with_row(dskip == nullptr ? nullptr : dskip + i * d, A{0}, [&](auto before) {
#pragma omp simd
      for (Index j = 0; j < d; ++j) to[j] = before(j) + gradient(j);
    });
  }
};

}}}  // namespace remat::kernels
