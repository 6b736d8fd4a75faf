// The products of y = x w and of its gradients.
#pragma once

#include <remat/kernels/gemm.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Of x [rows, inputs], w [inputs, outputs], or [outputs, inputs] if `transposed`, and y [rows, outputs].
template <class T>
struct LinearProducts {
  Index rows, inputs, outputs;
  bool transposed;

  /// y = x w + bias [outputs], or without it if null.
  template <class Y>
  void forward(const T* x, const T* w, const Accum<T>* bias, Y* y) const {
    const Gemm product{.b = transposed ? Trans::yes : Trans::no, .m = rows, .n = outputs, .k = inputs};
    gemm(product, x, w, y, bias);
  }
  /// dx = (or +=, if `add`) dy w^T
  void input_gradient(const T* dy, const T* w, bool add, T* dx) const {
    Gemm product{.b = transposed ? Trans::no : Trans::yes, .m = rows, .n = inputs, .k = outputs};
    product.accumulate = add;
    gemm(product, dy, w, dx);
  }
  /// dw = (or +=, if `add`) x^T dy, or its transpose
  void weight_gradient(const T* x, const T* dy, bool add, Accum<T>* dw) const {
    Gemm product{.a = Trans::yes, .m = inputs, .n = outputs, .k = rows};
    product.accumulate = add;
    if (transposed) std::swap(x, dy), std::swap(product.m, product.n);
    gemm(product, x, dy, dw);
  }
};

}}}  // namespace remat::kernels
