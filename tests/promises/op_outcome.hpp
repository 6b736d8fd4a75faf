// Value and gradients of one row of the table, run in several ways, and how two of them compare.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <core/threads.hpp>
#include <ops/op_case.hpp>
#include <remat/autodiff/gradient_check.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/unary.hpp>
#include <vector>

namespace remat_test {

/// What one run gave.
template <class T>
struct Outcome {
  Tensor<T> value;
  std::vector<Tensor<T>> gradients;
  Index ops_replayed = 0;
};

struct RunOptions {
  bool in_region = false;
  bool wrapped = false;  // see below
  bool verify = false;   // compare every byte of each replay, those that no value is read from, too
  int only_wanted = -1;  // index of the one operand whose gradient is wanted; -1: all
  int times = 1;         // how often the op is used on the same operands
};

template <class T>
Outcome<T> outcome(const OpRun& run, const RunOptions& options = {}) {
  Tape tape({.seed = 3, .step = 2, .verify = options.verify});
  std::vector<Var<T>> x;
  for (const Tensor<T>& value : run.values<T>()) {
    const bool wants = options.only_wanted < 0 || options.only_wanted == static_cast<int>(x.size());
    x.push_back(tape.input(value, {.wants_gradient = wants}));
  }
  // `wrapped`: the op reads values that another op made, and its result is read by the next one's backward. In a
  // region of `nothing` a replay must then run it again.
  const auto once = [&] {
    if (!options.wrapped) return run(tape, x);
    std::vector<Var<T>> made;
    for (const Var<T>& each : x) made.push_back(each * 1);
    return square(run(tape, made));
  };
  Var<T> loss;
  Outcome<T> result;
  for (int i = 0; i < options.times; ++i) {
    const Var<T> y = options.in_region ? tape.checkpoint(remat::policy::nothing, once) : once();
    result.value = y.value();
    const Var<T> sum = remat::detail::weighted_sum(y);
    loss = loss ? loss + sum : sum;
  }
  tape.backward(loss);
  for (std::size_t k = 0; k < x.size(); ++k)
    result.gradients.push_back(options.only_wanted < 0 || options.only_wanted == static_cast<int>(k) ? tape.grad(x[k])
                                                                                                     : Tensor<T>());
  result.ops_replayed = tape.stats().ops_replayed;
  return result;
}

template <class T>
testing::AssertionResult same(const Outcome<T>& a, const Outcome<T>& b) {
  if (!same_bits(a.value, b.value)) return testing::AssertionFailure() << "the values differ";
  for (std::size_t k = 0; k < a.gradients.size(); ++k)
    if (!same_bits(a.gradients[k], b.gradients[k]))
      return testing::AssertionFailure() << "the gradients of operand " << k << " differ";
  return testing::AssertionSuccess();
}

/// The greatest difference, relative to the greatest magnitude of `expected`; `factor` is applied to `expected`.
template <class A, class B>
double difference(const Tensor<A>& found, const Tensor<B>& expected, double factor = 1) {
  double error = 0, scale = 1e-3;
  for (Index i = 0; i < expected.size(); ++i) {
    const double value = factor * static_cast<double>(expected[i]);
    const double each = std::abs(static_cast<double>(found[i]) - value);
    if (std::isnan(each)) return each;
    error = std::max(error, each);
    scale = std::max(scale, std::abs(value));
  }
  return error / scale;
}

}  // namespace remat_test
