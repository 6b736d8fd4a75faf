// Rows of reductions over axes, of the places of extrema, of sums and softmaxes along an axis.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/argmax.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/cumulative_sum.hpp>
#include <remat/ops/extremum.hpp>
#include <remat/ops/logsumexp.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/softmax_over.hpp>
#include <remat/ops/take_rows.hpp>
#include <remat/ops/top_k.hpp>
#include <remat/ops/variance.hpp>

namespace remat_test {

/// Elements moved so far apart that small steps change no order among them.
template <class T>
Var<T> all_apart(const Var<T>& x) {
  std::vector<T> offsets(static_cast<std::size_t>(x.shape().size()));
  for (std::size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<T>(4 * (7919 * i % offsets.size()));
  return x + Tensor<T>(x.shape(), std::span<const T>(offsets));
}

inline void reduction_cases(const AddCase& row) {
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
       .inputs = {on({{5, 5}}), on({{1, 1}}), on({{3, 3}}), on({{7, 7}}), on({{33, 33}}), on({{70, 70}})}});

  for (const int axis : {0, 1, -1})
    row({.name = "cumulative_sum on axis " + std::to_string(axis),
         .fn = [axis](const auto& in) { return cumulative_sum(in[0], axis); },
         .inputs = {on({{2, 3}}), on({{3, 4, 5}}), on({{2, 70, 3}}), on({{0, 3}}), on({{3, 0}}), on({{130, 130}})}});

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
}

}  // namespace remat_test
