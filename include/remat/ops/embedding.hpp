// Rows of a table by number.
#pragma once

#include <algorithm>
#include <memory>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/check_ids.hpp>
#include <remat/ops/linear.hpp>
#include <type_traits>
#include <utility>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct Embedding : Op {
  static constexpr In<std::int32_t> ids{0};
  static constexpr In<Accum<T>> table{1};
  static constexpr Out<T> y{0};

  std::shared_ptr<const FrozenMatrix> stored{};  // set: the table is read as it is stored, and is no operand

  Embedding() : Op("embedding") {}
  explicit Embedding(const Argument<Accum<T>>& t) : Op("embedding") {
    const std::shared_ptr<ParameterEntry> entry = t.parameter();
    if (entry == nullptr || !entry->matrix) return;
    require(!entry->is_transposed, entry->path, ": is stored transposed, so that its rows cannot be looked up");
    stored = entry->matrix;
  }

  Specs infer(const Operands& in) const override {
    const Shape& shape = stored ? stored->shape() : in[table].shape;
    require(shape.rank() == 2, in.name(table, "the table"), " has shape ", shape, ", a matrix is needed");
    return {y(in[ids].shape.with(shape.back()))};
  }
  Cost cost(const Operands&, const Specs& out) const override {
    Cost cost;
    if (stored && !std::is_same_v<T, float>)
      cost.forward_scratch = checked_bytes(checked_mul(strip, out[0].shape.back()), sizeof(float));
    return cost;
  }
  Residuals residuals(const Wanted&) const override { return {ids}; }
  void forward(Frame& f) const override {
    check_ids(f[ids], stored ? stored->rows() : f[table].rows(), {}, "id", "the table has", "rows");
    if (stored) return read_stored(f);
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

 private:
  static constexpr Index strip = 64;  // rows that are floats on their way to another type

  void read_stored(Frame& f) const {
    const Index d = f[y].cols(), count = f[ids].size();
    const std::int32_t* from = f[ids].data();
    const FrozenMatrix& matrix = *stored;
    if constexpr (std::is_same_v<T, float>) {
      parallel_for(count, row_grain(d), [&, to = f[y].data()](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) matrix.read(from[i], 1, to + i * d);
      });
    } else {
      float* const rows = f.template scratch<float>();
      const auto to = numbers(f[y].data());
      for (Index first = 0; first < count; first += strip)
        parallel_for(std::min(strip, count - first), row_grain(d), [&](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) {
            matrix.read(from[first + i], 1, rows + i * d);
            for (Index j = 0; j < d; ++j) to[(first + i) * d + j] = rows[i * d + j];
          }
        });
    }
  }
};

}  // namespace ops

///@{
/// table[ids]: ids [...] in [0, V), table [V, D] -> [..., D]. Rows of a float table are rounded for
/// `embedding<bfloat16>`. Of a parameter that has an adapter of rows, theirs are added, see `LowRankAdapter`.
template <class T>
Var<T> embedding(const Var<std::int32_t>& ids, const Like<Accum<T>>& table) {
  using O = ops::Embedding<T>;
  O op(table);
  const std::shared_ptr<ParameterEntry> entry = table.parameter();
  const bool is_adapted = entry != nullptr && entry->adapter && entry->adapter->is_of_rows;
  const Var<T> rows =
      op.stored ? record(std::move(op), ids)[O::y] : record(std::move(op), ids, table.as_matrix())[O::y];
  if (!is_adapted) return rows;
  const LowRankAdapter& adapter = *entry->adapter;
  const auto half = [](const auto& of) { return Parameter<Accum<T>>(of); };
  const Var<T> low = embedding<T>(ids, Argument<Accum<T>>(half(adapter.down)));
  return rows + linear<T>(low * adapter.scale, half(adapter.up));
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
