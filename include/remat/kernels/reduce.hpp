// Sums and maxima in one fixed order: lane l takes elements l, l + L, l + 2L, ..., and the lanes are folded in halves.
// Sums of more than 2048 elements are cascades of such blocks, so that the error of a long one stays that of a short
// one. Within one program the bits depend on the data and their number, not on alignment or threads.
#pragma once

#include <algorithm>
#include <limits>
#include <remat/core/cascade_sum.hpp>
#include <remat/core/numbers.hpp>
#include <remat/core/shape.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

/// One AVX-512 register of lanes; narrower machines use two or four registers.
template <class T>
inline constexpr int lanes = 64 / static_cast<int>(sizeof(T));

/// Folds f(0), ..., f(n-1), each of type T, with `combine`, an associative operation but for rounding.
template <class T, class F, class Combine>
T fold(Index n, T identity, F&& f, Combine&& combine) {
  constexpr int L = lanes<T>;
  T lane[L];
  for (int l = 0; l < L; ++l) lane[l] = identity;
  Index i = 0;
  for (; i + L <= n; i += L) {
#pragma omp simd
    for (int l = 0; l < L; ++l) lane[l] = combine(lane[l], f(i + l));
  }
  for (int l = 0; i + l < n; ++l) lane[l] = combine(lane[l], f(i + l));
  for (int half = L / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] = combine(lane[l], lane[l + half]);
  return lane[0];
}

inline constexpr Index sum_block = 2048;

/// Out of the way of short sums, which are most.
template <class T, class F>
[[gnu::noinline]] T long_sum(Index n, F& f) {
  CascadeSum<T> total;
  for (Index begin = 0; begin < n; begin += sum_block) {
    const T part = fold<T>(
        std::min(n - begin, sum_block), T{0}, [&](Index i) { return static_cast<T>(f(begin + i)); },
        [](T a, T b) { return a + b; });
    total.add(&part);
  }
  return *total.total();
}

}  // namespace detail

/// f(0) + ... + f(n-1); 0 for n = 0. `f` takes an `Index` and should have no branches, so that it vectorizes.
template <class T, class F>
T sum_of(Index n, F&& f) {
  if (n > detail::sum_block) return detail::long_sum<T>(n, f);
  return detail::fold<T>(
      n, T{0}, [&](Index i) { return static_cast<T>(f(i)); }, [](T a, T b) { return a + b; });
}
/// The same where `f` calls functions that have no vector form for all types: its values are made in a loop of their
/// own, which no pragma asks to vectorize, since clang would warn.
template <class T, class F>
T sum_of_calls(Index n, F&& f) {
  T values[detail::sum_block];
  CascadeSum<T> total;
  for (Index begin = 0; begin < n; begin += detail::sum_block) {
    const Index count = std::min(n - begin, detail::sum_block);
    for (Index i = 0; i < count; ++i) values[i] = f(begin + i);
    const T part = sum_of<T>(count, [&](Index i) { return values[i]; });
    total.add(&part);
  }
  return *total.total();
}
/// The greatest of f(0), ..., f(n-1), NaNs passed over; -infinity for n = 0.
template <class T, class F>
T max_of(Index n, F&& f) {
  return detail::fold<T>(
      n, -std::numeric_limits<T>::infinity(), [&](Index i) { return static_cast<T>(f(i)); },
      [](T a, T b) { return b > a ? b : a; });
}

// Of bfloat16 they are floats.

template <class T>
Accum<T> sum(const T* data, Index n) {
  return sum_of<Accum<T>>(n, [x = numbers(data)](Index i) { return x[i]; });
}
template <class T>
Accum<T> sum_squares(const T* data, Index n) {
  return sum_of<Accum<T>>(n, [x = numbers(data)](Index i) { return x[i] * x[i]; });
}
template <class T>
Accum<T> dot(const T* a, const T* b, Index n) {
  return sum_of<Accum<T>>(n, [x = numbers(a), y = numbers(b)](Index i) { return x[i] * y[i]; });
}
/// NaNs are passed over; -infinity for n = 0.
template <class T>
Accum<T> max(const T* data, Index n) {
  return max_of<Accum<T>>(n, [x = numbers(data)](Index i) { return x[i]; });
}

}}}  // namespace remat::kernels
