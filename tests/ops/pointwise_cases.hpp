// Rows of ops that work element by element: on one operand, on two that are broadcast, on a choice between them.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/cast.hpp>
#include <remat/ops/clamp.hpp>
#include <remat/ops/compare.hpp>
#include <remat/ops/custom_gradient.hpp>
#include <remat/ops/one_hot.hpp>
#include <remat/ops/pow.hpp>
#include <remat/ops/unary.hpp>
#include <remat/ops/unary_activations.hpp>
#include <remat/ops/where.hpp>

namespace remat_test {

inline void pointwise_cases(const AddCase& row) {
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
       .inputs = {on({{}, {}}), on({{1}, {1}}), on({{33}, {5, 33}}), on({{7, 1}, {5}}), on({{0, 3}, {3}}),
                  on({{130, 300}, {300}})},
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
       .inputs = {on({{2, 3, 33}}, {{.shape = {3, 1}, .limit = 2}}), on({{}}, {{.shape = {}, .limit = 2}}),
                  on({{1}}, {{.shape = {1}, .limit = 2}}), on({{7}}, {{.shape = {7}, .limit = 2}}),
                  on({{0, 3}}, {{.shape = {3}, .limit = 2}}), on({{4, 100}}, {{.shape = {4, 1}, .limit = 2}})}});
  row({.name = "one_hot",
       .fn =
           [](const auto& in) {
             using T = typename std::decay_t<decltype(in)>::type;
             return in[0] * remat::one_hot<T>(in.integers[0], 5);
           },
       .inputs = {on({{3, 4, 5}}, {{.shape = {3, 4}, .limit = 5}}), on({{5}}, {{.shape = {}, .limit = 5}}),
                  on({{1, 5}}, {{.shape = {1}, .limit = 5}}), on({{33, 5}}, {{.shape = {33}, .limit = 5}}),
                  on({{2, 1, 5}}, {{.shape = {2, 1}, .limit = 5}}), on({{0, 5}}, {{.shape = {0}, .limit = 5}})}});
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

  row({.name = "custom_gradient",
       .fn =
           [](const auto& in) {
             using V = std::decay_t<decltype(in[0])>;
             return remat::custom_gradient(
                 "custom_gradient", std::vector<V>{in[0], in[1]},
                 [](Tape&, const std::vector<V>& x) { return tanh(x[0]) * x[1]; },
                 [](const remat::CustomBackward<typename V::value_type>& of) {
                   const V slope = 1 - square(tanh(of.inputs[0]));
                   return std::vector<V>{of.gradient * slope * of.inputs[1], of.gradient * tanh(of.inputs[0])};
                 });
           },
       .inputs = {on({{}, {}}), on({{7}, {7}}), on({{0, 3}, {0, 3}}), on({{3, 33}, {3, 33}})}});
}

}  // namespace remat_test
