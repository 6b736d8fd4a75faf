// The table of op cases: one row an op or variant. It drives the checks of promises/gradients_are_right_test.cpp.
#pragma once

#include <ops/loss_cases.hpp>
#include <ops/op_case.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/argmax.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/cast.hpp>
#include <remat/ops/clamp.hpp>
#include <remat/ops/combine_rows.hpp>
#include <remat/ops/compare.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/cumulative_sum.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/ops/extremum.hpp>
#include <remat/ops/gather.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/load_balancing_loss.hpp>
#include <remat/ops/logsumexp.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/one_hot.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/pow.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/rms_norm.hpp>
#include <remat/ops/route.hpp>
#include <remat/ops/scatter_add.hpp>
#include <remat/ops/skip_add.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/softmax_over.hpp>
#include <remat/ops/squeeze.hpp>
#include <remat/ops/stack.hpp>
#include <remat/ops/take_rows.hpp>
#include <remat/ops/top_k.hpp>
#include <remat/ops/transpose.hpp>
#include <remat/ops/unary.hpp>
#include <remat/ops/unary_activations.hpp>
#include <remat/ops/variance.hpp>
#include <remat/ops/where.hpp>

namespace remat_test {

/// Shapes for an op that works element by element.
inline std::vector<OpInputs> elementwise_inputs() {
  return {on({{}}), on({{1}}), on({{0}}), on({{3, 0, 2}}), on({{7}}), on({{33}}), on({{3, 100}}), on({{41, 1001}})};
}

/// Scores [N, E] moved so far apart in each row that small steps choose no other experts; E is no multiple of 3.
template <class T>
Var<T> apart(const Var<T>& scores) {
  Tensor<T> offsets(scores.shape());
  const Index experts = scores.shape()[1];
  for (Index i = 0; i < offsets.size(); ++i)
    offsets.write()[i] = static_cast<T>(4 * ((3 * (i % experts) + i / experts) % experts));
  return scores + offsets;
}

/// Elements moved so far apart that small steps change no order among them.
template <class T>
Var<T> all_apart(const Var<T>& x) {
  std::vector<T> offsets(static_cast<std::size_t>(x.shape().size()));
  for (std::size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<T>(4 * (7919 * i % offsets.size()));
  return x + Tensor<T>(x.shape(), std::span<const T>(offsets));
}

inline std::vector<OpCase> op_cases() {
  std::vector<OpCase> rows;
  const auto row = [&rows](OpCase op) { rows.push_back(std::move(op)); };

  // general
  const auto unary = [&](std::string name, OpFunction fn, double low = -1.5, double high = 1.5,
                         bool has_kinks = false) {
    row({std::move(name), std::move(fn), elementwise_inputs(), low, high, has_kinks});
  };
  unary("negate", [](const auto& in) { return -in[0]; });
  unary("sin", [](const auto& in) { return sin(in[0]); });
  unary("cos", [](const auto& in) { return cos(in[0]); });
  unary("exp", [](const auto& in) { return exp(in[0]); });
  unary(
      "log", [](const auto& in) { return log(in[0]); }, 0.3, 4);
  unary("tanh", [](const auto& in) { return tanh(in[0]); });
  unary(
      "sqrt", [](const auto& in) { return sqrt(in[0]); }, 0.3, 4);
  unary("square", [](const auto& in) { return square(in[0]); });
  unary(
      "abs", [](const auto& in) { return abs(in[0]); }, -1.5, 1.5, true);
  unary(
      "relu", [](const auto& in) { return relu(in[0]); }, -1.5, 1.5, true);
  unary(
      "gelu", [](const auto& in) { return gelu(in[0]); }, -4, 4);
  unary(
      "gelu_tanh", [](const auto& in) { return gelu_tanh(in[0]); }, -4, 4);
  unary(
      "silu", [](const auto& in) { return silu(in[0]); }, -4, 4);
  unary(
      "sigmoid", [](const auto& in) { return sigmoid(in[0]); }, -4, 4);
  unary(
      "softplus", [](const auto& in) { return softplus(in[0]); }, -4, 4);
  unary(
      "clamp", [](const auto& in) { return clamp(in[0], -0.5, 0.75); }, -1.5, 1.5, true);

  row({.name = "cast",  // of double it is x itself; bfloat16's are in bfloat16_test.cpp
       .fn =
           [](const auto& in) {
             using T = typename std::decay_t<decltype(in)>::type;
             return cast<T>(sin(cast<double>(in[0])));
           },
       .inputs = elementwise_inputs()});

  const std::vector<OpInputs> broadcast_inputs = {
      on({{}, {}}),         on({{7}, {7}}),      on({{3, 100}, {3, 100}}),   on({{0, 3}, {3}}),
      on({{3}, {0, 3}}),    on({{5, 33}, {33}}), on({{33}, {5, 33}}),        on({{5, 33}, {}}),
      on({{}, {5, 33}}),    on({{7, 1}, {5}}),   on({{1, 7}, {1}}),          on({{2, 1, 3, 1}, {4, 1, 5}}),
      on({{0, 1}, {1, 4}}), on({{0}, {1}}),      on({{3, 4, 5}, {3, 1, 5}}), on({{130, 300}, {300}}),
      on({{20000, 3}, {3}})};
  row({.name = "add", .fn = [](const auto& in) { return in[0] + in[1]; }, .inputs = broadcast_inputs});
  row({.name = "subtract", .fn = [](const auto& in) { return in[0] - in[1]; }, .inputs = broadcast_inputs});
  row({.name = "multiply", .fn = [](const auto& in) { return in[0] * in[1]; }, .inputs = broadcast_inputs});
  row({.name = "divide",
       .fn = [](const auto& in) { return in[0] / in[1]; },
       .inputs = broadcast_inputs,
       .low = 0.5,
       .high = 2});
  row({.name = "maximum",
       .fn = [](const auto& in) { return maximum(in[0], in[1]); },
       .inputs = broadcast_inputs,
       .has_kinks = true});
  row({.name = "minimum",
       .fn = [](const auto& in) { return minimum(in[0], in[1]); },
       .inputs = broadcast_inputs,
       .has_kinks = true});
  row({.name = "pow",
       .fn = [](const auto& in) { return pow(in[0], in[1]); },
       .inputs = broadcast_inputs,
       .low = 0.5,
       .high = 2});
  row({.name = "pow with numbers",
       .fn =
           [](const auto& in) { return pow(in[0], 3) * pow(2, in[0]) + pow(in[0], 2) + pow(in[0], 4) + pow(in[0], 0); },
       .inputs = {on({{}}), on({{33}})}});
  row({.name = "where of comparisons",
       .fn =
           [](const auto& in) {
             const auto odd = where(less(in[0], in[1]), square(in[0]), in[1]);
             const auto even = where(greater_equal(in[0], 0) * less_equal(0, in[1]), 3, in[0]);
             return odd * even + where(greater(in[1], in[0]), in[0], 0.5);
           },
       .inputs = {on({{}, {}}), on({{33}, {5, 33}}), on({{7, 1}, {5}}), on({{0, 3}, {3}}), on({{130, 300}, {300}})},
       .has_kinks = true});
  row({.name = "where of a condition that is stretched",
       .fn = [](const auto& in) { return where(in.integers[0], in[0], in[1]); },
       .inputs = {on({{3, 1}, {4}}, {{.shape = {2, 1, 1}, .limit = 2}}), on({{}, {}}, {{.shape = {5, 33}, .limit = 2}}),
                  on({{5, 33}, {33}}, {{.shape = {5, 1}, .limit = 2}}),
                  on({{33}, {5, 33}}, {{.shape = {33}, .limit = 2}}),
                  on({{0, 3}, {3}}, {{.shape = {1}, .limit = 2}})}});
  row({.name = "masked_fill",
       .fn =
           [](const auto& in) {
             return masked_fill(in[0], equal(in[0], in[0] * 1), 2) +
                    masked_fill(in[0], not_equal(in.integers[0], 0), 0.25);
           },
       .inputs = {on({{2, 3, 33}}, {{.shape = {3, 1}, .limit = 2}}), on({{}}, {{.shape = {}, .limit = 2}})}});
  row({.name = "one_hot",
       .fn =
           [](const auto& in) {
             using T = typename std::decay_t<decltype(in)>::type;
             return in[0] * remat::one_hot<T>(in.integers[0], 5);
           },
       .inputs = {on({{3, 4, 5}}, {{.shape = {3, 4}, .limit = 5}}), on({{5}}, {{.shape = {}, .limit = 5}}),
                  on({{0, 5}}, {{.shape = {0}, .limit = 5}})}});
  row({.name = "arithmetic with numbers",
       .fn = [](const auto& in) { return maximum(2 / in[0] + 1, in[0] * 3 - 4.5) + (1 - in[0] / 2); },
       .inputs = {on({{}}), on({{33}})},
       .low = 0.5,
       .high = 1.7});
  row({.name = "arithmetic on itself",
       .fn = [](const auto& in) { return (in[0] + in[0]) * (in[0] * in[0]) - in[0] / in[0]; },
       .inputs = {on({{33}})},
       .low = 0.5,
       .high = 2});

  const std::vector<OpInputs> whole = {on({{}}),        on({{1}}),    on({{0}}),    on({{33}}),
                                       on({{2, 3, 4}}), on({{0, 3}}), on({{3, 0}}), on({{41, 1001}})};
  row({.name = "sum", .fn = [](const auto& in) { return sum(in[0]); }, .inputs = whole});
  row({.name = "mean of all",  // of nothing it is NaN, which no check compares
       .fn = [](const auto& in) { return mean(in[0]); },
       .inputs = {on({{}}), on({{33}}), on({{2, 3, 4}})}});
  for (const std::vector<int>& axes : std::vector<std::vector<int>>{{0}, {1}, {-1}, {0, 2}, {-2, -3}, {2, 0, 1}, {}}) {
    std::string text;
    for (const int axis : axes) text += " " + std::to_string(axis);
    const std::vector<OpInputs> inputs = {on({{2, 3, 5}}), on({{7, 1, 33}}), on({{1, 1, 1}}), on({{3, 70, 65}})};
    row({.name = "sum over" + text, .fn = [axes](const auto& in) { return sum(in[0], axes); }, .inputs = inputs});
    row({.name = "mean over" + text + " keepdims",
         .fn = [axes](const auto& in) { return mean(in[0], axes, true); },
         .inputs = inputs});
  }
  row({.name = "sum over axes of length 0",
       .fn =
           [](const auto& in) {
             return sum(in[0], {1, 3});
           },
       .inputs = {on({{2, 0, 3, 4}}), on({{2, 3, 4, 0}}), on({{0, 3, 2, 5}})}});

  for (const std::vector<int>& axes : std::vector<std::vector<int>>{{0}, {1}, {-1}, {0, 2}, {2, 0, 1}}) {
    std::string text;
    for (const int axis : axes) text += " " + std::to_string(axis);
    const std::vector<OpInputs> inputs = {on({{2, 3, 5}}), on({{7, 1, 33}}), on({{1, 1, 1}}), on({{3, 70, 65}})};
    row({.name = "max over" + text,
         .fn = [axes](const auto& in) { return max(all_apart(in[0]), axes); },
         .inputs = inputs});
    row({.name = "min over" + text + " keepdims",
         .fn = [axes](const auto& in) { return min(all_apart(in[0]), axes, true); },
         .inputs = inputs});
    row({.name = "logsumexp over" + text,
         .fn = [axes](const auto& in) { return logsumexp(in[0], axes); },
         .inputs = inputs});
    row({.name = "variance over" + text + " keepdims",
         .fn = [axes](const auto& in) { return variance(in[0], axes, true); },
         .inputs = inputs});
  }
  row({.name = "max and min of all",
       .fn = [](const auto& in) { return max(all_apart(in[0])) * min(all_apart(in[0])); },
       .inputs = {on({{}}), on({{33}}), on({{2, 3, 4}}), on({{2100}})}});
  row({.name = "logsumexp and variance of all",
       .fn = [](const auto& in) { return logsumexp(in[0]) + variance(in[0]); },
       .inputs = {on({{}}), on({{33}}), on({{2, 3, 4}}), on({{2100}})}});
  row({.name = "max, min, logsumexp and variance of no rows",
       .fn =
           [](const auto& in) {
             return max(in[0], {1}) + min(in[0], {1}) + logsumexp(in[0], {1}) + variance(in[0], {1});
           },
       .inputs = {on({{0, 3}}), on({{0, 0}})}});
  row({.name = "top_k",
       .fn = [](const auto& in) { return top_k(all_apart(in[0]), 3).values; },
       .inputs = {on({{3}}), on({{5, 7}}), on({{2, 3, 33}}), on({{0, 5}}), on({{300, 130}})}});
  row({.name = "top_k of none",
       .fn = [](const auto& in) { return top_k(in[0], 0).values; },
       .inputs = {on({{5, 7}}), on({{2, 0}})}});
  row({.name = "argmax and argmin",  // both places move no gradient
       .fn =
           [](const auto& in) {
             const auto x = all_apart(in[0]);
             return take_rows(in[0], argmax(x, 0)) * take_rows(in[0], argmin(x, 1, true).reshape({-1}));
           },
       .inputs = {on({{5, 5}}), on({{1, 1}}), on({{70, 70}})}});

  for (const int axis : {0, 1, -1})
    row({.name = "cumulative_sum on axis " + std::to_string(axis),
         .fn = [axis](const auto& in) { return cumulative_sum(in[0], axis); },
         .inputs = {on({{2, 3}}), on({{3, 4, 5}}), on({{2, 70, 3}}), on({{0, 3}}), on({{3, 0}}), on({{130, 130}})}});

  const auto gather_inputs = [](bool has_values) {
    const auto one = [=](const Shape& x, const Integers& at) {
      return has_values ? on({x, at.shape}, {at}) : on({x}, {at});
    };
    return std::vector<OpInputs>{one({5, 3}, {.shape = {5, 7}, .limit = 3}),
                                 one({2, 3, 4}, {.shape = {2, 6, 4}, .limit = 3}),
                                 one({2, 9, 70}, {.shape = {2, 4, 70}, .limit = 9}),
                                 one({0, 3}, {.shape = {0, 2}, .limit = 3}),
                                 one({3, 0}, {.shape = {3, 0}}),
                                 one({2, 3}, {.shape = {2, 0}, .limit = 3})};
  };
  row({.name = "gather",
       .fn = [](const auto& in) { return gather(in[0], in.integers[0], 1); },
       .inputs = gather_inputs(false)});
  row({.name = "gather on axis 0",
       .fn = [](const auto& in) { return gather(in[0], in.integers[0], -in[0].shape().rank()); },
       .inputs = {on({{5}}, {{.shape = {9}, .limit = 5}}), on({{5, 70}}, {{.shape = {3, 70}, .limit = 5}})}});
  row({.name = "scatter_add",
       .fn =
           [](const auto& in) {
             using T = typename std::decay_t<decltype(in)>::type;
             return scatter_add<T>(in[0], in.integers[0], in[1], 1);
           },
       .inputs = gather_inputs(true)});

  row({.name = "matmul",
       .fn = [](const auto& in) { return matmul(in[0], in[1]); },
       .inputs = {on({{1, 1}, {1, 1}}), on({{5, 7}, {7, 3}}), on({{33, 17}, {17, 65}}), on({{0, 4}, {4, 3}}),
                  on({{3, 0}, {0, 2}}), on({{2, 3}, {3, 0}}), on({{2, 3, 4}, {4, 5}}), on({{2, 3, 4}, {2, 4, 5}}),
                  on({{2, 3, 4}, {1, 4, 5}}), on({{3, 4}, {2, 4, 5}}), on({{2, 1, 3, 4}, {3, 4, 2}}),
                  on({{2, 1, 3, 4}, {1, 2, 4, 2}}), on({{0, 3, 4}, {4, 2}}), on({{1, 3, 4}, {0, 4, 2}}),
                  on({{200, 150}, {150, 170}})}});
  row({.name = "matmul on itself",
       .fn = [](const auto& in) { return matmul(in[0], in[0]); },
       .inputs = {on({{4, 4}})}});

  row({.name = "transpose",
       .fn = [](const auto& in) { return transpose(in[0]); },
       .inputs = {on({{1, 1}}), on({{7, 33}}), on({{3, 5, 7}}), on({{3, 0}}), on({{100, 130}})}});
  for (const std::vector<int>& axes :
       std::vector<std::vector<int>>{{0, 1, 2, 3}, {0, 2, 1, 3}, {3, 2, 1, 0}, {1, -1, 0, 2}, {2, 3, 0, 1}}) {
    std::string text;
    for (const int axis : axes) text += " " + std::to_string(axis);
    row({.name = "transpose to" + text,
         .fn = [axes](const auto& in) { return transpose(in[0], axes); },
         .inputs = {on({{2, 3, 4, 5}}), on({{2, 1, 40, 3}}), on({{1, 1, 1, 1}}), on({{2, 0, 3, 1}})}});
  }

  for (const int axis : {0, 1, -1})
    row({.name = "concat on axis " + std::to_string(axis),
         .fn = [axis](const auto& in) { return concat(in.x, axis); },
         .inputs = {on({{2, 3}}), on({{3, 3}, {3, 3}, {3, 3}}), on({{0, 0}, {0, 0}})}});
  row({.name = "concat",
       .fn =
           [](const auto& in) {
             return remat::concat({in[0], in[1], in[0]}, 1);
           },
       .inputs = {on({{2, 3}, {2, 4}}), on({{3, 1, 7}, {3, 33, 7}}), on({{2, 0}, {2, 5}}), on({{0, 2}, {0, 3}})}});
  row({.name = "concat of leading axes",
       .fn =
           [](const auto& in) {
             return remat::concat({in[0], in[1]});
           },
       .inputs = {on({{2}, {5}}), on({{2, 3}, {0, 3}})}});

  for (const int axis : {0, 1, -1})
    row({.name = "stack on axis " + std::to_string(axis),
         .fn = [axis](const auto& in) { return stack(in.x, axis); },
         .inputs = {on({{3}, {3}}), on({{2}}), on({{2, 3}, {2, 3}, {2, 3}}), on({{0, 2}, {0, 2}})}});
  row({.name = "split",
       .fn =
           [](const auto& in) {
             const auto parts = split(in[0], {1, 4, 2}, -1);
             const auto rows = split(in[0], 3);
             return sum(sin(parts[1]) * parts[0]) + sum(parts[2]) * sum(rows[1] * rows[2]);
           },
       .inputs = {on({{3, 7}}), on({{6, 2, 7}})}});
  row({.name = "squeeze and unsqueeze",
       .fn = [](const auto& in) { return squeeze(sin(unsqueeze(in[0], 1)) * unsqueeze(in[0], -1), -1); },
       .inputs = {on({{1}}), on({{7}}), on({{0}})}});
  row({.name = "slice",
       .fn = [](const auto& in) { return slice(in[0], 1, 2, 5); },
       .inputs = {on({{3, 7}}), on({{2, 5, 3}}), on({{0, 5}}), on({{70, 5, 100}})}});
  row({.name = "slice of last axis",
       .fn = [](const auto& in) { return slice(in[0], -1, 0, 1); },
       .inputs = {on({{3, 7}}), on({{2, 5, 1}})}});
  row({.name = "slice of nothing",
       .fn = [](const auto& in) { return slice(in[0], 1, 2, 2); },
       .inputs = {on({{3, 7}})}});
  row({.name = "sums of slices that overlap",
       .fn = [](const auto& in) { return sin(slice(in[0], 0, 0, 3)) * slice(in[0], 0, 2, 5) + in[0].slice(1, 4); },
       .inputs = {on({{5}}), on({{5, 3}})}});
  row({.name = "reshape",
       .fn =
           [](const auto& in) {
             return sin(reshape(in[0], Shape{6, 2})) * in[0].reshape({6, 2});
           },
       .inputs = {on({{3, 4}})}});

  const std::vector<OpInputs> softmax_inputs = {on({{1}}),    on({{7}}),    on({{3, 33}}), on({{2, 3, 100}}),
                                                on({{0, 5}}), on({{5, 0}}), on({{4, 1}}),  on({{300, 130}})};
  row({.name = "softmax",
       .fn = [](const auto& in) { return softmax(in[0]); },
       .inputs = softmax_inputs,
       .low = -4,
       .high = 4});
  row({.name = "log_softmax",
       .fn = [](const auto& in) { return log_softmax(in[0]); },
       .inputs = softmax_inputs,
       .low = -4,
       .high = 4});

  const std::vector<OpInputs> softmax_over_inputs = {on({{2, 3, 100}}), on({{3, 7, 2}}),    on({{0, 5, 2}}),
                                                     on({{5, 0, 2}}),   on({{4, 1, 3}}),    on({{5, 2, 0}}),
                                                     on({{1, 150, 1}}), on({{6, 300, 130}})};
  for (const int axis : {0, -2, 2}) {
    row({.name = "softmax over axis " + std::to_string(axis),
         .fn = [axis](const auto& in) { return softmax(in[0], axis); },
         .inputs = softmax_over_inputs,
         .low = -4,
         .high = 4});
    row({.name = "log_softmax over axis " + std::to_string(axis),
         .fn = [axis](const auto& in) { return log_softmax(in[0], axis); },
         .inputs = softmax_over_inputs,
         .low = -4,
         .high = 4});
  }

  // fused
  using remat::Activation;
  const std::vector<OpInputs> linear_inputs = {
      on({{5, 7}, {7, 9}, {9}}), on({{2, 3, 4}, {4, 1}, {1}}), on({{3}, {3, 2}, {2}}),   on({{33, 17}, {17, 65}, {65}}),
      on({{0, 4}, {4, 3}, {3}}), on({{3, 0}, {0, 2}, {2}}),    on({{2, 3}, {3, 0}, {0}})};
  row({.name = "linear", .fn = [](const auto& in) { return linear(in[0], in[1], in[2]); }, .inputs = linear_inputs});
  row({.name = "linear without bias",
       .fn = [](const auto& in) { return linear(in[0], in[1]); },
       .inputs = {on({{5, 7}, {7, 9}}), on({{3, 0}, {0, 2}})}});
  row({.name = "linear transposed",
       .fn = [](const auto& in) { return linear(in[0], in[1], in[2], {.transposed = true}); },
       .inputs = {on({{5, 7}, {9, 7}, {9}}), on({{2, 3, 4}, {1, 4}, {1}})}});
  row({.name = "linear on itself",
       .fn = [](const auto& in) { return linear(in[0], in[0]); },
       .inputs = {on({{4, 4}})}});
  for (const Activation kind :
       {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu, Activation::squared_relu}) {
    const bool has_kinks = kind == Activation::relu || kind == Activation::squared_relu;
    row({.name = "activate " + std::string(to_string(kind)),
         .fn = [kind](const auto& in) { return activate(in[0], kind); },
         .inputs = elementwise_inputs(),
         .low = -4,
         .high = 4,
         .has_kinks = has_kinks});
    row({.name = "activate with dropout " + std::string(to_string(kind)),
         .fn = [kind](const auto& in) { return activate(in[0], kind, 0.3); },
         .inputs = {on({{3, 100}})},
         .has_kinks = has_kinks,
         .is_random = true});
    row({.name = "gated_activate " + std::string(to_string(kind)),
         .fn = [kind](const auto& in) { return gated_activate(in[0], in[1], kind); },
         .inputs = {on({{}, {}}), on({{0, 3}, {0, 3}}), on({{3, 100}, {3, 100}})},
         .has_kinks = has_kinks});
  }
  row({.name = "gated_activate with dropout",
       .fn = [](const auto& in) { return gated_activate(in[0], in[1], Activation::silu, 0.3); },
       .inputs = {on({{3, 100}, {3, 100}})},
       .is_random = true});
  row({.name = "gated_activate on itself",
       .fn = [](const auto& in) { return gated_activate(in[0], in[0], Activation::silu); },
       .inputs = {on({{3, 7}})}});
  row({.name = "dropout",
       .fn = [](const auto& in) { return dropout(in[0], 0.3); },
       .inputs = {on({{0}}), on({{7}}), on({{3, 100}}), on({{41, 1001}})},
       .is_random = true});
  const std::vector<OpInputs> norm_inputs = {on({{7}, {7}, {7}}),     on({{2, 3, 33}, {33}, {33}}),
                                             on({{70, 5}, {5}, {5}}), on({{0, 5}, {5}, {5}}),
                                             on({{3, 0}, {0}, {0}}),  on({{21, 100}, {100}, {100}})};
  row({.name = "layer_norm",
       .fn = [](const auto& in) { return layer_norm(in[0], in[1], in[2]); },
       .inputs = norm_inputs});
  row({.name = "layer_norm without bias",
       .fn = [](const auto& in) { return layer_norm(in[0], in[1]); },
       .inputs = {on({{3, 33}, {33}})}});
  row({.name = "layer_norm alone",
       .fn = [](const auto& in) { return layer_norm(in[0]); },
       .inputs = {on({{3, 33}}), on({{4, 1}})}});
  row({.name = "rms_norm",
       .fn = [](const auto& in) { return rms_norm(in[0], in[1]); },
       .inputs = {on({{7}, {7}}), on({{2, 3, 33}, {33}}), on({{70, 5}, {5}}), on({{4, 1}, {1}}), on({{0, 5}, {5}}),
                  on({{3, 0}, {0}})}});
  row({.name = "rms_norm alone", .fn = [](const auto& in) { return rms_norm(in[0]); }, .inputs = {on({{3, 33}})}});
  const std::vector<OpInputs> skip_inputs = {on({{7}, {7}, {7}, {7}}), on({{2, 3, 33}, {2, 3, 33}, {33}, {33}}),
                                             on({{0, 5}, {0, 5}, {5}, {5}}), on({{21, 300}, {21, 300}, {300}, {300}})};
  row({.name = "skip_layer_norm",
       .fn =
           [](const auto& in) {
             const auto both = skip_layer_norm(in[0], in[1], 0, in[2], in[3]);
             return both.sum * both.normal;
           },
       .inputs = skip_inputs});
  row({.name = "skip_layer_norm with dropout",
       .fn =
           [](const auto& in) {
             const auto both = skip_layer_norm(in[0], in[1], 0.25, in[2], in[3]);
             return both.sum * both.normal;
           },
       .inputs = skip_inputs,
       .is_random = true});
  row({.name = "skip_layer_norm, its normal alone",
       .fn = [](const auto& in) { return skip_layer_norm(in[0], in[1], 0, in[2]).normal; },
       .inputs = {on({{3, 33}, {3, 33}, {33}})}});
  row({.name = "skip_layer_norm, its sum alone",
       .fn = [](const auto& in) { return skip_layer_norm(in[0], in[1], 0, in[2], in[3]).sum; },
       .inputs = {on({{3, 33}, {3, 33}, {33}, {33}})}});
  row({.name = "skip_rms_norm",
       .fn =
           [](const auto& in) {
             const auto both = skip_rms_norm(in[0], in[1], 0.25, in[2]);
             return both.sum - both.normal;
           },
       .inputs = {on({{7}, {7}, {7}}), on({{2, 3, 33}, {2, 3, 33}, {33}}), on({{0, 5}, {0, 5}, {5}})},
       .is_random = true});
  for (const double rate : {0.0, 0.25})  // the op itself: of one type `skip_add` is an addition
    row({.name = rate > 0 ? "skip_add with dropout" : "skip_add",
         .fn =
             [rate](const auto& in) {
               using T = typename std::decay_t<decltype(in)>::type;
               using O = remat::ops::SkipAdd<T, T>;
               return record(O(remat::ops::next_mask(in.tape, rate, in[1].shape())), in[0], in[1])[O::y];
             },
         .inputs = {on({{7}, {7}}), on({{2, 3, 33}, {2, 3, 33}}), on({{0, 5}, {0, 5}}), on({{21, 300}, {21, 300}})},
         .is_random = rate > 0});
  row({.name = "embedding",
       .fn = [](const auto& in) { return embedding(in.integers[0], in[0]); },
       .inputs = {on({{5, 7}}, {{.shape = {3, 4}, .limit = 5}}), on({{9, 130}}, {{.shape = {6}, .limit = 9}}),
                  on({{5, 3}}, {{.shape = {}, .limit = 5}}), on({{4, 3}}, {{.shape = {0}, .limit = 4}}),
                  on({{4, 0}}, {{.shape = {2}, .limit = 4}})}});
  row({.name = "take_rows",
       .fn = [](const auto& in) { return take_rows(in[0], in.integers[0]); },
       .inputs = {on({{5, 7}}, {{.shape = {2, 3}, .values = {4, -1, 0, 4, 2, -1}}}),
                  on({{9, 130}}, {{.shape = {12}, .limit = 9}}), on({{0, 3}}, {{.shape = {2}, .values = {-1, -1}}}),
                  on({{4, 3}}, {{.shape = {0}, .limit = 4}}), on({{4, 0}}, {{.shape = {2}, .limit = 4}})}});
  row({.name = "combine_rows",
       .fn = [](const auto& in) { return combine_rows(in[0], in.integers[0], in[1]); },
       .inputs = {on({{5, 7}, {3, 2}}, {{.shape = {3, 2}, .values = {4, -1, 0, 4, -1, -1}}}),
                  on({{9, 130}, {7, 3}}, {{.shape = {7, 3}, .limit = 9}}),
                  on({{1, 1}, {1, 1}}, {{.shape = {1, 1}, .limit = 1}}),
                  on({{4, 3}, {0, 2}}, {{.shape = {0, 2}, .limit = 4}}),
                  on({{4, 0}, {2, 1}}, {{.shape = {2, 1}, .limit = 4}})}});
  row({.name = "route",
       .fn = [](const auto& in) { return route(apart(in[0]), {.top_k = 2, .capacity = 3}).gates; },
       .inputs = {on({{6, 4}}), on({{40, 5}}), on({{0, 2}}), on({{200, 130}})}});
  row({.name = "route to experts and back",  // some are full, some stay empty
       .fn =
           [](const auto& in) {
             const auto to = route(apart(in[0]), {.top_k = 1, .capacity = 2});
             const Index experts = to.tokens.shape()[0], d = in[1].shape()[1];
             return combine_rows(sin(take_rows(in[1], to.tokens)).reshape({2 * experts, d}), to.slots, to.gates);
           },
       .inputs = {on({{9, 4}, {9, 5}}), on({{3, 7}, {3, 33}})}});
  row({.name = "load_balancing_loss",
       .fn = [](const auto& in) { return load_balancing_loss(in[0], in.integers[0]); },
       .inputs = {on({{6, 4}}, {{.shape = {6, 2}, .limit = 4}}), on({{1, 1}}, {{.shape = {1, 1}, .limit = 1}}),
                  on({{500, 33}}, {{.shape = {500, 1}, .limit = 33}}), on({{0, 3}}, {{.shape = {0, 1}, .limit = 3}})}});
  row({.name = "add_positions",
       .fn = [](const auto& in) { return add_positions(in[0], in[1], 2); },
       .inputs = {on({{3, 4, 5}, {6, 5}}), on({{4, 33}, {9, 33}}), on({{0, 4, 5}, {6, 5}}), on({{2, 0, 5}, {2, 5}})}});
  row({.name = "cross_entropy",
       .fn = [](const auto& in) { return cross_entropy(in[0], in.integers[0]); },
       .inputs = {on({{7}}, {{.shape = {}, .limit = 7}}), on({{3, 5, 33}}, {{.shape = {3, 5}, .limit = 33}}),
                  on({{4, 65}}, {{.shape = {4}, .values = {3, -1, 64, -1}}}),
                  on({{2, 5}}, {{.shape = {2}, .values = {-1, -1}}}), on({{0, 5}}, {{.shape = {0}, .limit = 5}})}});
  // One of three tokens has weight 0.
  const auto token_weights = [](const auto& in) {
    Tensor<typename std::decay_t<decltype(in)>::type> weights(in.integers[0].shape());
    for (Index i = 0; i < weights.size(); ++i) weights.write()[i] = static_cast<float>(i % 3) / 4;
    return weights;
  };
  row({.name = "cross_entropy with weights",
       .fn = [=](const auto& in) { return cross_entropy(in[0], in.integers[0], {}, token_weights(in)); },
       .inputs = {on({{3, 5, 33}}, {{.shape = {3, 5}, .limit = 33}}), on({{1, 5}}, {{.shape = {1}, .limit = 5}})}});
  const std::vector<OpInputs> loss_inputs = {on({{3, 3, 33}}, {{.shape = {3, 3}, .limit = 33}}),
                                             on({{4, 65}}, {{.shape = {4}, .values = {3, -1, 64, -1}}}),
                                             on({{2, 1}}, {{.shape = {2}, .limit = 1}})};
  row({.name = "cross_entropy with label smoothing",
       .fn = [](const auto& in) { return cross_entropy(in[0], in.integers[0], {.label_smoothing = 0.2}); },
       .inputs = loss_inputs});
  row({.name = "cross_entropy with z-loss",
       .fn = [](const auto& in) { return cross_entropy(in[0], in.integers[0], {.z_loss = 0.3}); },
       .inputs = loss_inputs});
  row({.name = "cross_entropy with soft cap",
       .fn = [](const auto& in) { return cross_entropy(in[0], in.integers[0], {.soft_cap = 1.3}); },
       .inputs = loss_inputs});
  row({.name = "linear_cross_entropy",
       .fn = [](const auto& in) { return linear_cross_entropy(in[0], in[1], in[2], in.integers[0], {.chunk = 4}); },
       .inputs = {on({{3, 5, 9}, {9, 11}, {11}}, {{.shape = {3, 5}, .limit = 11}}),
                  on({{3}, {3, 2}, {2}}, {{.shape = {}, .limit = 2}}),
                  on({{5, 1}, {1, 1}, {1}}, {{.shape = {5}, .limit = 1}}),
                  on({{9, 9}, {9, 11}, {11}}, {{.shape = {9}, .values = {-1, -1, -1, -1, 10, 0, -1, -1, 2}}}),
                  on({{3, 4}, {4, 6}, {6}}, {{.shape = {3}, .values = {-1, -1, -1}}}),
                  on({{3, 0}, {0, 2}, {2}}, {{.shape = {3}, .limit = 2}}),
                  on({{0, 4}, {4, 3}, {3}}, {{.shape = {0}, .limit = 3}})}});
  row({.name = "linear_cross_entropy transposed without bias",
       .fn =
           [](const auto& in) {
             return linear_cross_entropy(in[0], in[1], {}, in.integers[0], {.transposed = true, .chunk = 100});
           },
       .inputs = {on({{3, 5, 7}, {9, 7}}, {{.shape = {3, 5}, .limit = 9}}),
                  on({{230, 5}, {33, 5}}, {{.shape = {230}, .limit = 33}}),
                  on({{0, 4}, {3, 4}}, {{.shape = {0}, .limit = 3}})}});
  row({.name = "linear_cross_entropy that keeps its gradients",
       .fn =
           [=](const auto& in) {
             return linear_cross_entropy(in[0], in[1], in[2], in.integers[0],
                                         {.label_smoothing = 0.2, .z_loss = 0.3, .chunk = 4, .keep_gradients = true},
                                         token_weights(in));
           },
       .inputs = {on({{3, 5, 9}, {9, 11}, {11}}, {{.shape = {3, 5}, .limit = 11}}),
                  on({{3}, {3, 2}, {2}}, {{.shape = {}, .limit = 2}}),
                  on({{3, 4}, {4, 6}, {6}}, {{.shape = {3}, .values = {-1, -1, -1}}}),
                  on({{0, 4}, {4, 3}, {3}}, {{.shape = {0}, .limit = 3}})}});
  row({.name = "linear_cross_entropy on itself",
       .fn = [](const auto& in) { return linear_cross_entropy(in[0], in[0], {}, in.integers[0]); },
       .inputs = {on({{4, 4}}, {{.shape = {4}, .limit = 4}})}});
  row({.name = "linear_cross_entropy with everything",
       .fn =
           [=](const auto& in) {
             return linear_cross_entropy(
                 in[0], in[1], in[2], in.integers[0],
                 {.ignore = 0, .label_smoothing = 0.2, .z_loss = 0.3, .soft_cap = 1.3, .transposed = true, .chunk = 5},
                 token_weights(in));
           },
       .inputs = {on({{3, 5, 7}, {9, 7}, {9}}, {{.shape = {3, 5}, .limit = 9}})}});
  const std::vector<OpInputs> attention_inputs = {
      on({{2, 7, 4, 5}, {2, 7, 2, 5}, {2, 7, 2, 5}}),    on({{1, 3, 2, 4}, {1, 9, 1, 4}, {1, 9, 1, 4}}),
      on({{2, 6, 1, 3}, {2, 4, 1, 3}, {2, 4, 1, 3}}),    on({{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}}),
      on({{1, 70, 1, 2}, {1, 70, 1, 2}, {1, 70, 1, 2}}), on({{0, 3, 2, 4}, {0, 3, 2, 4}, {0, 3, 2, 4}}),
      on({{2, 0, 2, 4}, {2, 3, 2, 4}, {2, 3, 2, 4}}),    on({{2, 3, 2, 4}, {2, 0, 2, 4}, {2, 0, 2, 4}})};
  row({.name = "attention",
       .fn = [](const auto& in) { return attention(in[0], in[1], in[2]); },
       .inputs = attention_inputs});
  row({.name = "attention causal",
       .fn = [](const auto& in) { return attention(in[0], in[1], in[2], {.causal = true}); },
       .inputs = attention_inputs});
  row({.name = "attention with offset, scale and dropout",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true, .offset = 1, .scale = 0.7, .dropout = 0.3});
           },
       .inputs = {on({{2, 7, 4, 5}, {2, 9, 2, 5}, {2, 9, 2, 5}})},
       .is_random = true});
  row({.name = "attention with window, soft cap and alibi",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true, .window = 4, .soft_cap = 0.6, .alibi = true});
           },
       .inputs = {on({{2, 7, 3, 5}, {2, 9, 3, 5}, {2, 9, 3, 5}}), on({{1, 70, 1, 2}, {1, 70, 1, 2}, {1, 70, 1, 2}})}});
  row({.name = "attention with rotary and chunks",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2],
                              {.query_chunk = 3, .key_chunk = 5, .rotary_base = 100, .rotary_dims = 4});
           },
       .inputs = {on({{2, 7, 4, 5}, {2, 9, 2, 5}, {2, 9, 2, 5}})}});
  row({.name = "attention with bias",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true}, {.bias = in[3], .relative_bias = in[4]});
           },
       .inputs = {on({{2, 7, 2, 3}, {2, 9, 1, 3}, {2, 9, 1, 3}, {2, 2, 7, 9}, {4, 2}}),
                  on({{2, 6, 2, 3}, {2, 5, 2, 3}, {2, 5, 2, 3}, {1, 2, 1, 5}, {6, 2}}),
                  on({{1, 70, 1, 2}, {1, 70, 1, 2}, {1, 70, 1, 2}, {1, 1, 70, 70}, {32, 1}}),
                  on({{0, 3, 2, 4}, {0, 3, 2, 4}, {0, 3, 2, 4}, {1, 2, 3, 3}, {4, 2}}),
                  on({{2, 3, 2, 4}, {2, 0, 2, 4}, {2, 0, 2, 4}, {2, 2, 3, 0}, {4, 2}})}});
  row({.name = "attention with masks",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true},
                              {.key_lengths = in.integers[0],
                               .query_segments = in.integers[1],
                               .prefix_lengths = in.integers[2],
                               .relative_bias = in[3]});
           },
       .inputs = {on({{2, 7, 2, 3}, {2, 7, 2, 3}, {2, 7, 2, 3}, {4, 2}},
                     {{.shape = {2}, .values = {5, 7}},
                      {.shape = {2, 7}, .values = {0, 0, 0, 1, 1, 1, 2, 0, 1, 0, 1, 0, 1, 0}},
                      {.shape = {2}, .values = {3, 0}}})}});
  row({.name = "attention_qkv",
       .fn = [](const auto& in) { return attention_qkv(in[0], 4, 2, {.causal = true}); },
       .inputs = {on({{2, 7, 24}}), on({{1, 66, 8}}), on({{0, 3, 8}}), on({{2, 0, 8}})}});
  row({.name = "attention_qkv with dropout",
       .fn = [](const auto& in) { return attention_qkv(in[0], 2, 1, {.causal = true, .dropout = 0.3}); },
       .inputs = {on({{2, 7, 12}})},
       .is_random = true});
  row({.name = "attention_qkv with bias, masks and rotary",
       .fn =
           [](const auto& in) {
             return attention_qkv(in[0], 2, 1, {.window = 4, .soft_cap = 2, .rotary_base = 10000},
                                  {.query_segments = in.integers[0], .bias = in[1], .relative_bias = in[2]});
           },
       .inputs = {on({{2, 7, 16}, {1, 2, 7, 7}, {8, 2}}, {{.shape = {2, 7}, .limit = 2}})}});

  for (OpCase& op : loss_cases()) row(std::move(op));
  return rows;
}

/// Every row on each of its sets of shapes.
inline std::vector<OpRun> op_runs() {
  std::vector<OpRun> runs;
  for (const OpCase& op : op_cases())
    for (const OpInputs& inputs : op.inputs) runs.push_back({op, inputs});
  return runs;
}

}  // namespace remat_test
