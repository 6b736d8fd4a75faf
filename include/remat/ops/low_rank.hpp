// x w + b with a low-rank adapter beside w: LoRA (Hu et al. 2021, arXiv 2106.09685).
#pragma once

#include <algorithm>
#include <remat/kernels/rows.hpp>
#include <remat/ops/product_weight.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// y = x w + b + low up with low = scale z down, where z is x or what dropout left of it. Both products go into one y;
/// what backward keeps beside z is of rank R. Of P parts of w, low is [..., P R], and R columns of it times the part's
/// columns of up are added to the part's columns of y: zeros between the parts are neither stored nor multiplied.
template <class T>
struct AdaptedLinear : Op {
  static constexpr In<T> x{0};
  static constexpr Weight<T> w{1};  // left out where it is stored elsewhere
  static constexpr In<Accum<T>> b{2};
  static constexpr Weight<T> down{3}, up{4};  // [D, R], [R, F]; of parts [D, P R], [R, U]
  static constexpr In<T> z{5};                // left out: x
  static constexpr Out<T> y{0}, low{1};       // [..., F], [..., R]
  ProductWeight<T> weight;
  double scale;
  std::vector<MatrixPart> parts;  // of w that are adapted, in order; empty: all of it

  /// `has_z`: z is given and not left out.
  AdaptedLinear(ProductWeight<T> matrix, double factor, bool has_z, std::vector<MatrixPart> some = {})
      : Op("linear"), weight(std::move(matrix)), scale(factor), parts(std::move(some)), has_z_(has_z) {}

  Specs infer(const Operands& in) const override {
    const Shape &xs = in[x].shape, ws = weight.shape(in, w);
    require(ws.rank() == 2, weight.name(in, w), " has shape ", ws, ", a matrix is needed");
    const Index inputs = weight.inputs(in, w), outputs = weight.outputs(in, w);
    require(xs.rank() > 0 && xs.back() == inputs, "x has shape ", xs, ", ", weight.name(in, w), " expects ", inputs,
            " features");
    require(!in.has(b) || in[b].shape == Shape{outputs}, in.name(b, "b"), " has shape ", in[b].shape, ", ",
            weight.name(in, w), " makes ", outputs, " features");
    const Shape &ds = in[down].shape, &us = in[up].shape;
    const Index adapted = adapted_columns(parts, outputs), count = std::max<Index>(1, static_cast<Index>(parts.size()));
    require(ds.rank() == 2 && us.rank() == 2 && ds[0] == inputs && us[1] == adapted && ds[1] == count * us[0],
            in.name(down, "down"), " has shape ", ds, " and ", in.name(up, "up"), " ", us, ", ", weight.name(in, w),
            " needs [", inputs, ", ", count == 1 ? "" : std::to_string(count) + " ", "R] and [R, ", adapted, "]");
    Index behind = 0;  // the part before
    for (const MatrixPart& part : parts) {
      require(behind <= part.begin && part.begin <= part.end && part.end <= outputs, part.name, " is columns [",
              part.begin, ", ", part.end, ") of ", weight.name(in, w), ", which has ", outputs,
              "; parts must lie in it one behind the other");
      behind = part.end;
    }
    require(!in.has(z) || in[z].shape == xs, "z has shape ", in.has(z) ? in[z].shape : Shape{}, ", x has ", xs);
    return {y(xs.drop_last().with(outputs)), low(xs.drop_last().with(ds[1]))};
  }
  Cost cost(const Operands& in, const Specs& out) const override {
    const Index rows = out[0].shape.rows(), features = out[0].shape.back();
    const Wanted wanted(in);
    const double to_low = 2.0 * static_cast<double>(rows) * static_cast<double>(in[down].shape.size());
    const double from_low = 2.0 * static_cast<double>(rows) * static_cast<double>(in[up].shape.size());
    const double base = 2.0 * static_cast<double>(in[x].shape.size()) * static_cast<double>(features);
    Cost cost;
    cost.dot = cost.coupled = true;
    cost.flops = base + to_low + from_low;
    cost.backward_flops = base * (wanted[x] + wanted[w]) + from_low * (reads_low_gradient(wanted) + wanted[up]) +
                          to_low * ((wanted[x] || wanted[z]) + wanted[down]);
    cost.forward_scratch = weight.forward_scratch(rows);
    if (wanted[x]) cost.backward_scratch = weight.gradient_scratch(rows);
    if (wanted[b])
      cost.backward_scratch = std::max(cost.backward_scratch, kernels::RowBlocks(rows).bytes<Accum<T>>(features));
    if (reads_low_gradient(wanted)) cost.backward_scratch = std::max(cost.backward_scratch, out[1].bytes());
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override {
    Residuals read;
    read.add(x, wanted[w] || (wanted[down] && !has_z_)).add(z, wanted[down] && has_z_).add(w, wanted[x]);
    return read.add(down, wanted[x] || wanted[z]).add(up, reads_low_gradient(wanted)).add(low, wanted[up]);
  }
  void forward(Frame& f) const override {
    to_low(f).forward(f.has(z) ? f[z].data() : f[x].data(), f[down].data(), nullptr, f[low].data());
    kernels::scale_into(f[low].data(), f[low].size(), static_cast<Accum<T>>(scale), false, f[low].data());
    weight.forward(products(f), f[x].data(), weight.data(f, w), f.has(b) ? f[b].data() : nullptr, f[y].data(),
                   f.template scratch<std::byte>());
    each(f, [&](const AdaptedColumns& c) {
      kernels::Gemm add_up{.m = f[y].rows(), .n = c.width, .k = c.rank};
      add_up.lda = f[low].cols(), add_up.ldb = f[up].cols(), add_up.ldc = f[y].cols();
      add_up.accumulate = true;
      kernels::gemm(add_up, f[low].data() + c.of_down, f[up].data() + c.of_up, f[y].data() + c.of_w);
    });
  }
  void backward(Frame& f) const override {
    const T* dy = f.grad(y).data();
    auto* const scratch = f.template scratch<std::byte>();
    if (f.wants(x))
      weight.input_gradient(products(f), dy, weight.data(f, w), f.accumulate(x), f.grad(x).data(), scratch);
    if (f.wants(w)) products(f).weight_gradient(f[x].data(), dy, f.accumulate(w), f.grad(w).data());
    if (f.wants(b))
      kernels::column_sums(dy, f[y].rows(), f[y].cols(), f.accumulate(b), f.grad(b).data(),
                           reinterpret_cast<Accum<T>*>(scratch));
    if (f.wants(up))
      each(f, [&](const AdaptedColumns& c) {
        kernels::Gemm of_up{.a = kernels::Trans::yes, .m = c.rank, .n = c.width, .k = f[y].rows()};
        of_up.lda = f[low].cols(), of_up.ldb = f[y].cols(), of_up.ldc = f[up].cols();
        of_up.accumulate = f.accumulate(up);
        kernels::gemm(of_up, f[low].data() + c.of_down, dy + c.of_w, f.grad(up).data() + c.of_up);
      });
    if (!f.wants(x) && !f.wants(z) && !f.wants(down)) return;
    T* const dlow = reinterpret_cast<T*>(scratch);  // what was there is used up
    each(f, [&](const AdaptedColumns& c) {
      kernels::Gemm of_low{.b = kernels::Trans::yes, .m = f[y].rows(), .n = c.rank, .k = c.width};
      of_low.lda = f[y].cols(), of_low.ldb = f[up].cols(), of_low.ldc = f[low].cols();
      kernels::gemm(of_low, dy + c.of_w, f[up].data() + c.of_up, dlow + c.of_down);
    });
    kernels::scale_into(dlow, f[low].size(), static_cast<Accum<T>>(scale), false, dlow);
    if (f.wants(down))
      to_low(f).weight_gradient(f.has(z) ? f[z].data() : f[x].data(), dlow, f.accumulate(down), f.grad(down).data());
    if (f.wants(z)) to_low(f).input_gradient(dlow, f[down].data(), f.accumulate(z), f.grad(z).data());
    if (f.wants(x) && !f.has(z)) to_low(f).input_gradient(dlow, f[down].data(), true, f.grad(x).data());
  }
  GradientRule gradient(int input) const override {
    return {.adds = true, .wide = input == w.index || input == down.index || input == up.index};
  }

 private:
  static bool reads_low_gradient(const Wanted& wanted) { return wanted[x] || wanted[z] || wanted[down]; }
  kernels::LinearProducts<T> products(const Frame& f) const {
    return {f[y].rows(), f[x].cols(), f[y].cols(), weight.transposed};
  }
  kernels::LinearProducts<T> to_low(const Frame& f) const { return {f[y].rows(), f[x].cols(), f[low].cols(), false}; }

  template <class Work>
  void each(const Frame& f, Work&& work) const {
    each_part(parts, f[up].rows(), f[y].cols(), std::forward<Work>(work));
  }

  bool has_z_;
};

}}}  // namespace remat::ops
