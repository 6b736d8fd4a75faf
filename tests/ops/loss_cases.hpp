// Rows of the table of op cases: losses and how they are reduced.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/binary_cross_entropy.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/kl_divergence.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/mean_squared_error.hpp>

namespace remat_test {

/// A weight for each element of `shape`: one of three is 0.
template <class T>
Tensor<T> loss_weights(const Shape& shape) {
  Tensor<T> weights(shape);
  for (Index i = 0; i < shape.size(); ++i) weights.write()[i] = static_cast<T>((i + 1) % 3) / 4;
  return weights;
}

inline void loss_cases(const AddCase& row) {
  using remat::Reduction;
  const std::vector<OpInputs> token_inputs = {on({{2, 3, 5}}, {{.shape = {2, 3}, .values = {0, 4, -1, 2, 1, 1}}}),
                                              on({{7}}, {{.shape = {}, .limit = 7}}),
                                              on({{0, 5}}, {{.shape = {0}, .limit = 5}})};
  const std::vector<OpInputs> head_inputs = {
      on({{2, 3, 4}, {4, 5}, {5}}, {{.shape = {2, 3}, .values = {0, 4, -1, 2, 1, 1}}}),
      on({{3}, {3, 2}, {2}}, {{.shape = {}, .limit = 2}}), on({{0, 4}, {4, 3}, {3}}, {{.shape = {0}, .limit = 3}})};
  for (const Reduction reduction : {Reduction::sum, Reduction::none}) {
    const std::string text = reduction == Reduction::sum ? " summed" : " one by one";
    row({.name = "cross_entropy" + text,
         .fn =
             [=](const auto& in) {
               using T = typename std::decay_t<decltype(in)>::type;
               return cross_entropy(in[0], in.integers[0], {.z_loss = 0.1, .reduction = reduction},
                                    loss_weights<T>(in.integers[0].shape()));
             },
         .inputs = token_inputs});
    row({.name = "linear_cross_entropy" + text,
         .fn =
             [=](const auto& in) {
               return linear_cross_entropy(in[0], in[1], in[2], in.integers[0],
                                           {.label_smoothing = 0.1, .chunk = 2, .reduction = reduction});
             },
         .inputs = head_inputs});
  }
  row({.name = "linear_cross_entropy summed that keeps its gradients",
       .fn =
           [](const auto& in) {
             return linear_cross_entropy(in[0], in[1], in[2], in.integers[0],
                                         {.chunk = 2, .keep_gradients = true, .reduction = Reduction::sum});
           },
       .inputs = head_inputs});

  const std::vector<OpInputs> pair_inputs = {
      on({{2, 7}, {2, 7}}),       on({{}, {}}),        on({{1}, {1}}), on({{33}, {33}}),
      on({{3, 4, 5}, {3, 4, 5}}), on({{0, 3}, {0, 3}})};
  const std::vector<OpInputs> row_inputs = {on({{2, 2, 5}, {2, 2, 5}}), on({{7}, {7}}),       on({{3, 1}, {3, 1}}),
                                            on({{0, 5}, {0, 5}}),       on({{2, 0}, {2, 0}}), on({{7, 33}, {7, 33}})};
  for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none})
    for (const bool is_weighted : {false, true}) {
      const std::string text = std::string(reduction == Reduction::mean  ? ""
                                           : reduction == Reduction::sum ? " summed"
                                                                         : " one by one") +
                               (is_weighted ? " with weights" : "");
      const auto weights = [=](const auto& in, const Shape& shape) {
        using T = typename std::decay_t<decltype(in)>::type;
        return is_weighted ? remat::Like<T>(loss_weights<T>(shape)) : remat::Like<T>();
      };
      row({.name = "mean_squared_error" + text,
           .fn =
               [=](const auto& in) {
                 return mean_squared_error(in[0], in[1], {reduction}, weights(in, in[0].shape()));
               },
           .inputs = pair_inputs});
      row({.name = "binary_cross_entropy" + text,
           .fn =
               [=](const auto& in) {
                 return binary_cross_entropy(8 * in[0] - 4, in[1], {.pos_weight = 2.5, .reduction = reduction},
                                             weights(in, in[0].shape()));
               },
           .inputs = pair_inputs,
           .low = 0.1,
           .high = 0.9});
      row({.name = "kl_divergence" + text,
           .fn =
               [=](const auto& in) {
                 return kl_divergence(2 * in[0], in[1], {.temperature = 1.7, .reduction = reduction},
                                      weights(in, in[0].shape().drop_last()));
               },
           .inputs = row_inputs});
    }
  // Of distributions so near that the series serves, and of one that is compared with itself.
  row({.name = "kl_divergence of near logits",
       .fn = [](const auto& in) { return 100 * kl_divergence(in[0] / 16 + 0.1 * in[1], 0.1 * in[1]); },
       .inputs = {on({{3, 5}, {3, 5}})}});
  row({.name = "losses of an operand and itself",
       .fn = [](const auto& in) { return mean_squared_error(in[0], in[0]) + kl_divergence(in[0], in[0]); },
       .inputs = {on({{3, 5}})}});
}

}  // namespace remat_test
