// Rows of activations as one op of several kinds, and of dropout.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/drop_path.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/jitter.hpp>

namespace remat_test {

inline void activation_cases(const AddCase& row) {
  using remat::Activation;
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
         .inputs = {on({{}, {}}), on({{1}, {1}}), on({{0, 3}, {0, 3}}), on({{7, 33}, {7, 33}}),
                    on({{3, 100}, {3, 100}})},
         .has_kinks = has_kinks});
  }
  row({.name = "gated_activate with dropout",
       .fn = [](const auto& in) { return gated_activate(in[0], in[1], Activation::silu, 0.3); },
       .inputs = {on({{3, 100}, {3, 100}})},
       .is_random = true});
  row({.name = "gated_activate on itself",
       .fn = [](const auto& in) { return gated_activate(in[0], in[0], Activation::silu); },
       .inputs = {on({{3, 7}})}});
  row({.name = "jitter",
       .fn = [](const auto& in) { return jitter(in[0], 0.3); },
       .inputs = {on({{1}}), on({{7, 33}}), on({{2, 3, 5}}), on({{3, 100}}), on({{41, 1001}}), on({{0, 3}})},
       .is_random = true});
  row({.name = "drop_path",
       .fn = [](const auto& in) { return drop_path(in[0], 0.4); },
       .inputs = {on({{7}}), on({{1, 33}}), on({{6, 3, 2}}), on({{41, 1001}}), on({{0, 3}}), on({{3, 0}})},
       .is_random = true});
  row({.name = "dropout",
       .fn = [](const auto& in) { return dropout(in[0], 0.3); },
       .inputs = {on({{0}}), on({{1}}), on({{7}}), on({{2, 3, 33}}), on({{3, 100}}), on({{41, 1001}})},
       .is_random = true});
}

}  // namespace remat_test
