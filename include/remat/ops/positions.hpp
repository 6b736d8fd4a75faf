// Learned positions: a row of a table for each place in a sequence.
#pragma once

#include <remat/autodiff/tape.hpp>
#include <remat/kernels/rows.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct AddPositions : Op {
  static constexpr In<T> x{0};
  static constexpr In<Accum<T>> table{1};
  static constexpr Out<T> y{0};
  Index offset;
  std::shared_ptr<SequenceRing> ring{};  // ranks of which each has a part of the sequences; null: they are whole

  explicit AddPositions(Index o) : Op("add_positions"), offset(o) {}

  Specs infer(const Operands& in) const override {
    const Shape &xs = in[x].shape, &ts = in[table].shape;
    const auto name = in.name(table, "the table");
    require(xs.rank() >= 2, "x has shape ", xs, ", axes [..., T, D] are needed");
    require(ts.rank() == 2, name, " has shape ", ts, ", a matrix is needed");
    require(xs.back() == ts.back(), "x has ", xs.back(), " features, ", name, " has ", ts.back());
    const Index whole = pieces(length(xs)).whole();
    require(offset >= 0 && offset <= ts[0] - whole, "x takes positions [", offset, ", ", offset + whole, "), ", name,
            " has ", ts[0], " rows");
    return {y(xs)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    const Index d = f[x].cols(), t = length(f[x].shape());
    const auto xs = numbers(f[x].data());
    const Accum<T>* rows = f[table].data() + offset * d;
    const auto ys = numbers(f[y].data());
    parallel_for(f[x].rows(), row_grain(d), [=, place = pieces(t)](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Accum<T>* position = rows + place[i % t] * d;
#pragma omp simd
        for (Index j = 0; j < d; ++j) ys[i * d + j] = xs[i * d + j] + position[j];
      }
    });
  }
  // Only of the table; that of x passes. Each row is summed over the batch.
  void backward(Frame& f) const override {
    const Index d = f[x].cols(), t = length(f[x].shape()), rows = f[x].rows();
    const Index first = offset;
    const bool adds = f.accumulate(table);
    const auto dy = numbers(f.grad(y).data());
    Accum<T>* dtable = f.grad(table).data();
    const Index grain = row_grain(d * (t == 0 ? 1 : rows / t));
    parallel_for(f[table].rows(), grain, [=, place = pieces(t)](Index begin, Index end) {
      for (Index s = begin; s < end; ++s) {
        const Index token = s < first ? -1 : place.token_at(s - first), batches = token < 0 ? 0 : rows / t;
        const auto row = [=](Index b) { return dy + (b * t + token) * d; };
        kernels::sum_rows<1024>(batches, CascadeSum<Accum<T>>::step, d, row, adds, dtable + s * d);
      }
    });
  }
  GradientRule gradient(int input) const override { return {.adds = input == table.index, .passes = input == x.index}; }

 private:
  static Index length(const Shape& x_shape) { return x_shape.drop_last().back(); }
  /// Where tokens lie: all in one piece, if sequences are whole.
  SequencePieces pieces(Index tokens) const {
    return ring == nullptr ? SequencePieces{tokens, 0, 0, 1} : ring->pieces(tokens);
  }
};

}  // namespace ops

/// x[..., t, :] + table[offset + t]: x [..., T, D], table [S, D] with S >= offset + T -> [..., T, D]. Where ranks share
/// a sequence, t is the position in the whole.
template <class T>
Var<T> add_positions(const Var<T>& x, const Like<Accum<T>>& table, Index offset = 0) {
  using O = ops::AddPositions<T>;
  O op(offset);
  op.ring = x.tape().ring();
  require(op.ring == nullptr || !x.tape().chunk(), "add_positions: inside blockwise, a chunk of a rank's part of a ",
          "sequence does not say where it lies; call it outside");
  return record(std::move(op), x, table)[O::y];
}

}}  // namespace remat
