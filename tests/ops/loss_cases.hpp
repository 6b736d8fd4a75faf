// Rows of the table of op cases: losses and how they are reduced.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/linear_cross_entropy.hpp>

namespace remat_test {

/// A weight for each element of `shape`: one of three is 0.
template <class T>
Tensor<T> loss_weights(const Shape& shape) {
  Tensor<T> weights(shape);
  for (Index i = 0; i < shape.size(); ++i) weights.write()[i] = static_cast<T>((i + 1) % 3) / 4;
  return weights;
}

inline std::vector<OpCase> loss_cases() {
  using remat::Reduction;
  std::vector<OpCase> rows;
  const std::vector<OpInputs> token_inputs = {on({{2, 3, 5}}, {{.shape = {2, 3}, .values = {0, 4, -1, 2, 1, 1}}}),
                                              on({{7}}, {{.shape = {}, .limit = 7}}),
                                              on({{0, 5}}, {{.shape = {0}, .limit = 5}})};
  const std::vector<OpInputs> head_inputs = {
      on({{2, 3, 4}, {4, 5}, {5}}, {{.shape = {2, 3}, .values = {0, 4, -1, 2, 1, 1}}}),
      on({{3}, {3, 2}, {2}}, {{.shape = {}, .limit = 2}}), on({{0, 4}, {4, 3}, {3}}, {{.shape = {0}, .limit = 3}})};
  for (const Reduction reduction : {Reduction::sum, Reduction::none}) {
    const std::string text = reduction == Reduction::sum ? " summed" : " one by one";
    rows.push_back({.name = "cross_entropy" + text,
                    .fn =
                        [=](const auto& in) {
                          using T = typename std::decay_t<decltype(in)>::type;
                          return cross_entropy(in[0], in.integers[0], {.z_loss = 0.1, .reduction = reduction},
                                               loss_weights<T>(in.integers[0].shape()));
                        },
                    .inputs = token_inputs});
    rows.push_back({.name = "linear_cross_entropy" + text,
                    .fn =
                        [=](const auto& in) {
                          return linear_cross_entropy(in[0], in[1], in[2], in.integers[0],
                                                      {.label_smoothing = 0.1, .chunk = 2, .reduction = reduction});
                        },
                    .inputs = head_inputs});
  }
  rows.push_back({.name = "linear_cross_entropy summed that keeps its gradients",
                  .fn =
                      [](const auto& in) {
                        return linear_cross_entropy(in[0], in[1], in[2], in.integers[0],
                                                    {.chunk = 2, .keep_gradients = true, .reduction = Reduction::sum});
                      },
                  .inputs = head_inputs});
  return rows;
}

}  // namespace remat_test
