// x w + b over the last axis.
#pragma once

#include <algorithm>
#include <remat/kernels/rows.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/dora.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/low_rank.hpp>
#include <remat/ops/product_weight.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI {

/// How `linear` reads its matrix.
struct LinearOptions {
  bool transposed = false;  // w is [F, D]: a tied embedding table, or weights of PyTorch
};

namespace ops {

template <class T>
struct Linear : Op {
  static constexpr In<T> x{0};
  static constexpr Weight<T> w{1};  // left out where it is stored elsewhere
  static constexpr In<Accum<T>> b{2};
  static constexpr Out<T> y{0};
  ProductWeight<T> weight;

  explicit Linear(const LinearOptions& o) : Linear(ProductWeight<T>(o.transposed)) {}
  explicit Linear(ProductWeight<T> matrix) : Op("linear"), weight(std::move(matrix)) {}

  Specs infer(const Operands& in) const override {
    const Shape &xs = in[x].shape, ws = weight.shape(in, w);
    require(ws.rank() == 2, weight.name(in, w), " has shape ", ws, ", a matrix is needed");
    const Index inputs = weight.inputs(in, w), outputs = weight.outputs(in, w);
    require(xs.rank() > 0, "x is a number, a last axis of ", inputs, " features is needed");
    require(xs.back() == inputs, "x has ", xs.back(), " features, ", weight.name(in, w), " expects ", inputs);
    require(!in.has(b) || in[b].shape == Shape{outputs}, in.name(b, "b"), " has shape ", in[b].shape, ", ",
            weight.name(in, w), " makes ", outputs, " features");
    return {y(xs.drop_last().with(outputs))};
  }
  Cost cost(const Operands& in, const Specs& out) const override {
    const Index rows = out[0].shape.rows(), features = out[0].shape.back();
    const Wanted wanted(in);
    Cost cost;
    cost.dot = true;
    cost.flops = 2.0 * static_cast<double>(in[x].shape.size()) * static_cast<double>(features);
    cost.backward_flops = cost.flops * (wanted[x] + wanted[w]);
    cost.forward_scratch = weight.forward_scratch(rows);
    if (wanted[x]) cost.backward_scratch = weight.gradient_scratch(rows);
    if (wanted[b])
      cost.backward_scratch = std::max(cost.backward_scratch, kernels::RowBlocks(rows).bytes<Accum<T>>(features));
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override { return Residuals().add(x, wanted[w]).add(w, wanted[x]); }
  void forward(Frame& f) const override {
    weight.forward(products(f), f[x].data(), weight.data(f, w), f.has(b) ? f[b].data() : nullptr, f[y].data(),
                   f.template scratch<std::byte>());
  }
  void backward(Frame& f) const override {
    const T* dy = f.grad(y).data();
    if (f.wants(x))
      weight.input_gradient(products(f), dy, weight.data(f, w), f.accumulate(x), f.grad(x).data(),
                            f.template scratch<std::byte>());
    if (f.wants(w)) products(f).weight_gradient(f[x].data(), dy, f.accumulate(w), f.grad(w).data());
    if (f.wants(b))
      kernels::column_sums(dy, f[y].rows(), f[y].cols(), f.accumulate(b), f.grad(b).data(),
                           f.template scratch<Accum<T>>());
  }
  GradientRule gradient(int input) const override { return {.adds = true, .wide = input == w.index}; }

 private:
  kernels::LinearProducts<T> products(const Frame& f) const {
    return {f[y].rows(), f[x].cols(), f[y].cols(), weight.transposed};
  }
};

/// `linear` of a parameter that has an adapter.
template <class T>
Var<T> adapted_linear(const Var<T>& x, const Argument<T>& w, const Argument<Accum<T>>& b, bool transposed) {
  using A = Accum<T>;
  using Rank = Parameter<A>;
  using O = AdaptedLinear<T>;
  const std::shared_ptr<ParameterEntry> entry = w.parameter();
  const LowRankAdapter& adapter = *entry->adapter;
  require(!transposed, entry->path, ": has an adapter, but is read transposed, as a head is; leave it out of the ",
          "adapter's targets");
  const ProductWeight<T> weight(w, false);
  const Argument<T> matrix = weight.operand(w.without_adapter());
  const Argument<T> down{Rank(adapter.down)}, up{Rank(adapter.up)};
  const Var<T> dropped = adapter.dropout > 0 ? dropout(x, adapter.dropout) : x;
  const bool is_dropped = adapter.dropout > 0 && x.tape().is_training();
  if (!adapter.magnitude)
    return record(O(weight, adapter.scale, is_dropped, adapter.parts), x, matrix, b, down, up,
                  is_dropped ? Argument<T>(dropped) : Argument<T>())[O::y];
  // z w' + (x - z) w + b, with w' of columns as long as their magnitudes and z what dropout left, as PEFT has it.
  const auto constant = [&](const std::shared_ptr<ParameterEntry>& of) {
    return stop_gradient(x.tape().parameter(Rank(of)));
  };
  using Norms = DoraNorms<A>;
  const Var<A> norms = record(Norms(ProductWeight<A>(Argument<A>(Rank(entry)), false), adapter.scale, adapter.parts),
                              constant(adapter.down), constant(adapter.up),
                              weight.stored ? Argument<A>() : Argument<A>(constant(entry)))[Norms::norms];
  const Var<T> v =
      record(O(weight, adapter.scale, false, adapter.parts), dropped, matrix, Argument<A>(), down, up)[O::y];
  const Var<T> y = record(Dora<T>(adapter.parts), v, Argument<A>(Rank(adapter.magnitude)), b, norms)[Dora<T>::y];
  return is_dropped ? y + record(Linear<T>(weight), x - dropped, matrix, Argument<A>())[Linear<T>::y] : y;
}

/// What the adapter of a head reads of its x [..., D], at rank R: [..., R].
template <class T>
Var<T> low_of_head(const Var<T>& x, const LowRankAdapter& adapter) {
  const ProductWeight<T> down(false);
  const Var<T> z = adapter.dropout > 0 ? dropout(x, adapter.dropout) : x;
  return record(Linear<T>(down), z, Argument<T>(Parameter<Accum<T>>(adapter.down)),
                Argument<Accum<T>>())[Linear<T>::y] *
         adapter.scale;
}

}  // namespace ops

/// x w + b: x [..., D], w [D, F] ([F, D] when `transposed`), b [F] or nothing -> [..., F]. Of bfloat16, w is one or a
/// float parameter that is cast, b is of float, and gradients of both are. A parameter that is stored elsewhere is read
/// from there, and one that has an adapter has its product with it, see `ParameterEntry`.
template <class T>
Var<T> linear(const Var<T>& x, const Like<T>& w, const Like<Accum<T>>& b = {}, const LinearOptions& options = {}) {
  const Argument<T> matrix = w.as_matrix();
  if (const auto entry = w.parameter(); entry != nullptr && entry->adapter && !entry->adapter->is_of_rows)
    return ops::adapted_linear<T>(x, w, b, options.transposed);
  using O = ops::Linear<T>;
  const ops::ProductWeight<T> weight(w, options.transposed);
  const Var<T> y = record(O(weight), x, weight.operand(matrix), b)[O::y];
  const auto entry = w.parameter();
  if (entry == nullptr || !entry->head_adapter) return y;
  require(options.transposed, entry->path, ": has an adapter of a head, which is read transposed; here it is not");
  const Argument<T> up(Parameter<Accum<T>>(entry->head_adapter->up));
  return y + record(O(ops::ProductWeight<T>(false)), ops::low_of_head(x, *entry->head_adapter), up,
                    Argument<Accum<T>>())[O::y];
}

}}  // namespace remat
