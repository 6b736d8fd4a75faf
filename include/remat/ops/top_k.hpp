// The k greatest elements of each row.
#pragma once

#include <algorithm>
#include <limits>
#include <remat/autodiff/var.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/extremum.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct TopK : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> values{0};
  static constexpr Out<std::int32_t> indices{1};
  Index k;

  explicit TopK(Index count) : Op("top_k"), k(count) {}

  Specs infer(const Operands& in) const override {
    const Shape& shape = in[x].shape;
    require(shape.rank() > 0, "x is a number, a last axis to choose from is needed");
    require(k >= 0 && k <= shape.back(), "k is ", k, ", rows of x have ", shape.back(), " elements");
    require(shape.back() <= std::numeric_limits<std::int32_t>::max(), "rows of ", shape.back(),
            " elements are too long to number by int32");
    const Shape chosen = shape.drop_last().with(k);
    return {values(chosen), indices(chosen)};
  }
  Residuals residuals(const Wanted&) const override { return {indices}; }
  void forward(Frame& f) const override {
    const auto from = f[x];
    const auto to = f[values];
    std::int32_t* const ids = f[indices].data();
    parallel_for(to.size() == 0 ? 0 : to.rows(), row_grain(from.cols()), [=, this](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) choose(from.row(i), from.cols(), to.row(i), ids + i * k);
    });
  }
  void backward(Frame& f) const override {
    const Index d = f[x].cols();
    const std::int32_t* ids = f[indices].data();
    const T* dy = f.grad(values).data();
    T* dx = f.grad(x).data();
    parallel_for(f[x].rows(), row_grain(d), [=, this](Index begin, Index end) {
      std::fill(dx + begin * d, dx + end * d, static_cast<T>(0));
      for (Index i = begin; i < end; ++i)
        for (Index j = i * k; j < (i + 1) * k; ++j) dx[i * d + ids[j]] = dy[j];
    });
  }

 private:
  /// A heap of the best k so far, the last of them on top, where their numbers will be.
  void choose(const T* row, Index d, T* chosen, std::int32_t* ids) const {
    const auto numbered = numbers(row);
    const auto goes_before = [=](std::int32_t a, std::int32_t b) {
      const Accum<T> va = numbered[a], vb = numbered[b];
      return kernels::is_beyond<true>(va, vb) || (!kernels::is_beyond<true>(vb, va) && a < b);
    };
    for (Index j = 0; j < k; ++j) ids[j] = static_cast<std::int32_t>(j);
    std::make_heap(ids, ids + k, goes_before);
    for (auto i = static_cast<std::int32_t>(k); i < d; ++i) {
      if (!goes_before(i, ids[0])) continue;
      std::pop_heap(ids, ids + k, goes_before);
      ids[k - 1] = i;
      std::push_heap(ids, ids + k, goes_before);
    }
    std::sort_heap(ids, ids + k, goes_before);
    for (Index j = 0; j < k; ++j) chosen[j] = row[ids[j]];
  }
};

}  // namespace ops

/// The chosen elements of each row, and where they were.
template <class T>
struct TopK {
  Var<T> values;              // [..., k]
  Var<std::int32_t> indices;  // [..., k], in [0, D)
};

/// The k greatest elements of each row of x [..., D], greatest first, of equal ones the first; NaNs count as greatest.
/// The gradient of the values goes to the elements that were chosen. Errors: a number, k not in [0, D].
template <class T>
TopK<T> top_k(const Var<T>& x, Index k) {
  using O = ops::TopK<T>;
  const Results results = record(O(k), x);
  return {results[O::values], results[O::indices]};
}

}}  // namespace remat
