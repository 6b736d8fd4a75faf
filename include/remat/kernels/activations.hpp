// Activations as pairs of plain functions of one number, for loops that the compiler vectorizes. Always inlined, like
// the functions they are made of: in a trainer GCC called the derivative of GELU, one number at a time.
#pragma once

#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// x Phi(x), Phi the normal distribution (Hendrycks, Gimpel 2016), exact by the error function.
struct Gelu {
  template <class T>
  [[gnu::always_inline]] static T value(T x) {
    return T(0.5) * x * (T(1) + fast_erf(x * T(0.70710678118654752)));
  }
  template <class T>
  [[gnu::always_inline]] static T derivative(T x) {
    const Normal<T> normal = fast_normal(x);
    return normal.below + x * normal.density;
  }
};

/// The tanh approximation of GELU, from the same paper; GPT-2's.
struct GeluTanh {
  template <class T>
  [[gnu::always_inline]] static T value(T x) {
    return T(0.5) * x * (T(1) + fast_tanh(inner(x)));
  }
  template <class T>
  [[gnu::always_inline]] static T derivative(T x) {
    const T t = fast_tanh(inner(x));
    const T slope = T(0.79788456080286536) * (T(1) + T(3 * 0.044715) * x * x);
    const T bounded = detail::select(slope < T(1e30), slope, T(1e30));  // an infinite one, times 1 - t^2 = 0, is NaN
    return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * bounded;
  }

 private:
  template <class T>
  [[gnu::always_inline]] static T inner(T x) {
    return T(0.79788456080286536) * (x + T(0.044715) * x * x * x);
  }
};

/// x sigmoid(x), also called swish (Elfwing, Uchibe, Doya 2018).
struct Silu {
  template <class T>
  [[gnu::always_inline]] static T value(T x) {
    return x / (T(1) + fast_exp(-x));
  }
  template <class T>
  [[gnu::always_inline]] static T derivative(T x) {
    const T sigmoid = T(1) / (T(1) + fast_exp(-x));
    return sigmoid * (T(1) + x * (T(1) - sigmoid));
  }
};

/// max(x, 0); NaN stays NaN, and the derivative at 0 is 0.
struct Relu {
  template <class T>
  [[gnu::always_inline]] static T value(T x) {
    return x < T(0) ? T(0) : x;
  }
  template <class T>
  [[gnu::always_inline]] static T derivative(T x) {
    return static_cast<T>(x > T(0));
  }
};

}}}  // namespace remat::kernels
