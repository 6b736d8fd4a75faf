// Ids as rows of zeros with a one.
#pragma once

#include <algorithm>
#include <remat/autodiff/tape.hpp>
#include <remat/core/parallel.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// y [.., classes] is 1 at ids [..], and 0 elsewhere.
template <class T>
struct OneHot : Op {
  static constexpr In<std::int32_t> ids{0};
  static constexpr Out<T> y{0};

  Index classes;

  explicit OneHot(Index count) : Op("one_hot"), classes(count) {}
  Specs infer(const Operands& in) const override {
    require(classes > 0, "there are ", classes, " classes; at least one is needed");
    return {y(in[ids].shape.with(classes))};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    check_ids(f[ids], classes, {}, "id", "there are", "classes");
    parallel_for(f[ids].size(), row_grain(classes),
                 [id = f[ids].data(), to = f[y].data(), n = classes](Index begin, Index end) {
                   std::fill(to + begin * n, to + end * n, static_cast<T>(0));
                   for (Index i = begin; i < end; ++i) to[i * n + id[i]] = static_cast<T>(1);
                 });
  }
  void backward(Frame&) const override {}
};

}  // namespace ops

/// one_hot<float>(ids, classes): for ids [..] the tensor [.., classes] of 0 with a 1 at each id. Errors: an id outside
/// [0, classes), by its place; no classes.
template <class T>
Var<T> one_hot(const Var<std::int32_t>& ids, Index classes) {
  return record(ops::OneHot<T>(classes), ids)[ops::OneHot<T>::y];
}

}}  // namespace remat
