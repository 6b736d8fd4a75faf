// The matrix of a product: an operand on the tape, or one that stays as it is stored and is no operand.
#pragma once

#include <memory>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/frozen_products.hpp>
#include <remat/kernels/linear.hpp>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// w [D, F], or [F, D] if `transposed`, of y = x w. One that is stored elsewhere has no gradient, and products with it
/// keep nothing for backward.
template <class T>
struct ProductWeight {
  bool transposed = false;
  std::shared_ptr<const FrozenMatrix> stored{};  // set: the operand is left out
  bool stored_transposed = false;                // it holds the transpose of w
  std::string path{};                            // what errors call it

  /// An operand.
  explicit ProductWeight(bool is_transposed) : transposed(is_transposed) {}
  /// Of what `linear` was given.
  ProductWeight(const Argument<T>& w, bool is_transposed) : transposed(is_transposed) {
    const std::shared_ptr<ParameterEntry> entry = w.parameter();
    if (entry == nullptr || !entry->matrix) return;
    stored = entry->matrix, stored_transposed = entry->is_transposed, path = entry->path;
  }
  /// The operand that an op records: none where the matrix is stored elsewhere.
  Argument<T> operand(const Argument<T>& w) const { return stored ? Argument<T>() : w; }

  /// As the operand has it, or would have it.
  Shape shape(const Operands& in, Weight<T> w) const { return stored ? stored_shape() : in[w].shape; }
  /// What errors call it.
  std::string_view name(const Operands& in, Weight<T> w) const { return stored ? path : in.name(w, "w"); }
  Index inputs(const Operands& in, Weight<T> w) const { return shape(in, w)[transposed ? 1 : 0]; }
  Index outputs(const Operands& in, Weight<T> w) const { return shape(in, w)[transposed ? 0 : 1]; }
  Index outputs() const { return stored_shape()[transposed ? 0 : 1]; }  // of one that is stored

  /// Bytes that the product of so many rows takes for itself.
  std::size_t forward_scratch(Index rows) const { return stored ? products(rows).forward_scratch() : 0; }
  std::size_t gradient_scratch(Index rows) const { return stored ? products(rows).gradient_scratch() : 0; }

  /// The operand's elements; null where it is stored elsewhere.
  const T* data(const Frame& f, Weight<T> w) const { return stored ? nullptr : f[w].data(); }
  /// y [rows, F] = x w + bias [F], or without it if null; `w` is `data`.
  template <class Y>
  void forward(const kernels::LinearProducts<T>& of, const T* x, const T* w, const Accum<T>* bias, Y* y,
               std::byte* scratch) const {
    stored ? products(of.rows).forward(x, bias, y, scratch) : of.forward(x, w, bias, y);
  }
  /// dx = (or +=, if `add`) dy w^T
  void input_gradient(const kernels::LinearProducts<T>& of, const T* dy, const T* w, bool add, T* dx,
                      std::byte* scratch) const {
    stored ? products(of.rows).input_gradient(dy, add, dx, scratch) : of.input_gradient(dy, w, add, dx);
  }

 private:
  kernels::FrozenProducts<T> products(Index rows) const {
    return {rows, stored.get(), transposed != stored_transposed};
  }
  Shape stored_shape() const { return stored_transposed ? Shape{stored->columns(), stored->rows()} : stored->shape(); }
};

}}}  // namespace remat::ops
