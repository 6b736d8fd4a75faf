// Rows of cross entropies, alone and with the product before them.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/linear_cross_entropy.hpp>

namespace remat_test {

inline void cross_entropy_cases(const AddCase& row) {
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
  row({.name = "cross_entropy with logit multiplier",
       .fn = [](const auto& in) { return cross_entropy(in[0], in.integers[0], {.logit_multiplier = 0.7}); },
       .inputs = loss_inputs});
  row({.name = "cross_entropy with logit multiplier and soft cap",
       .fn =
           [](const auto& in) {
             return cross_entropy(in[0], in.integers[0],
                                  {.label_smoothing = 0.2, .soft_cap = 1.3, .logit_multiplier = 1.6});
           },
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
  const std::vector<OpInputs> capped_inputs = {on({{3, 5, 9}, {9, 11}, {11}}, {{.shape = {3, 5}, .limit = 11}}),
                                               on({{3}, {3, 2}, {2}}, {{.shape = {}, .limit = 2}}),
                                               on({{3, 4}, {4, 6}, {6}}, {{.shape = {3}, .values = {-1, -1, -1}}}),
                                               on({{0, 4}, {4, 3}, {3}}, {{.shape = {0}, .limit = 3}})};
  row({.name = "linear_cross_entropy with logit multiplier",
       .fn =
           [](const auto& in) {
             return linear_cross_entropy(in[0], in[1], in[2], in.integers[0], {.chunk = 4, .logit_multiplier = 0.4});
           },
       .inputs = capped_inputs});
  row({.name = "linear_cross_entropy with logit multiplier and soft cap that keeps its gradients",
       .fn =
           [=](const auto& in) {
             return linear_cross_entropy(
                 in[0], in[1], in[2], in.integers[0],
                 {.z_loss = 0.3, .soft_cap = 1.3, .chunk = 4, .keep_gradients = true, .logit_multiplier = 0.4},
                 token_weights(in));
           },
       .inputs = capped_inputs});
  row({.name = "linear_cross_entropy on itself",
       .fn = [](const auto& in) { return linear_cross_entropy(in[0], in[0], {}, in.integers[0]); },
       .inputs = {on({{4, 4}}, {{.shape = {4}, .limit = 4}})}});
  row({.name = "linear_cross_entropy with everything",
       .fn =
           [=](const auto& in) {
             remat::LinearCrossEntropyOptions all{.ignore = 0, .label_smoothing = 0.2, .z_loss = 0.3, .soft_cap = 1.3};
             all.transposed = true, all.chunk = 5, all.logit_multiplier = 0.4;
             return linear_cross_entropy(in[0], in[1], in[2], in.integers[0], all, token_weights(in));
           },
       .inputs = {on({{3, 5, 7}, {9, 7}, {9}}, {{.shape = {3, 5}, .limit = 9}})}});
}

}  // namespace remat_test
