// Rows of a table by number.
#pragma once

#include <remat/autodiff/tape.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct Embedding : Op {
  static constexpr In<std::int32_t> ids{0};
  static constexpr In<Accum<T>> table{1};
  static constexpr Out<T> y{0};

  Embedding() : Op("embedding") {}

  Specs infer(const Operands& in) const override {
    require(in[table].shape.rank() == 2, in.name(table, "the table"), " has shape ", in[table].shape,
            ", a matrix is needed");
    return {y(in[ids].shape.with(in[table].shape.back()))};
  }
  Residuals residuals(const Wanted&) const override { return {ids}; }
  void forward(Frame& f) const override {
    check_ids(f[ids], f[table].rows(), {}, "id", "the table has", "rows");
    const Index d = f[table].cols();
    const std::int32_t* from = f[ids].data();
    const Accum<T>* rows = f[table].data();
    const auto to = numbers(f[y].data());
    parallel_for(f[ids].size(), row_grain(d), [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Accum<T>* row = rows + from[i] * d;
#pragma omp simd
        for (Index j = 0; j < d; ++j) to[i * d + j] = row[j];
      }
    });
  }
  // Each task owns some columns and meets the ids in order: no two write one element, and every sum has one order.
  void backward(Frame& f) const override {
    const Index d = f[table].cols(), count = f[ids].size(), rows = f[table].rows();
    const bool adds = f.accumulate(table);
    const std::int32_t* from = f[ids].data();
    const T* dy = f.grad(y).data();
    Accum<T>* dtable = f.grad(table).data();
    parallel_for(d, 64, [=](Index begin, Index end) {
      if (!adds)
        for (Index v = 0; v < rows; ++v) std::fill(dtable + v * d + begin, dtable + v * d + end, Accum<T>{0});
      for (Index i = 0; i < count; ++i) {
        Accum<T>* sum = dtable + from[i] * d;
        const auto term = numbers(dy + i * d);
#pragma omp simd
        for (Index j = begin; j < end; ++j) sum[j] += term[j];
      }
    });
  }
  GradientRule gradient(int input) const override { return {.adds = input == table.index}; }
};

}  // namespace ops

///@{
/// table[ids]: ids [...] in [0, V), table [V, D] -> [..., D]. Rows of a float table are rounded for
/// `embedding<bfloat16>`.
template <class T>
Var<T> embedding(const Var<std::int32_t>& ids, const Like<Accum<T>>& table) {
  return record(ops::Embedding<T>(), ids, table)[ops::Embedding<T>::y];
}
template <class T>
Var<T> embedding(const Var<std::int32_t>& ids, const Var<T>& table) {
  return embedding<T>(ids, Argument<T>(table));
}
template <class T>
Var<T> embedding(const Var<std::int32_t>& ids, const Parameter<T>& table) {
  return embedding<T>(ids, Argument<T>(table));
}
///@}

}}  // namespace remat
