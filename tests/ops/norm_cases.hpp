// Rows of norms and of the skip connections that join them.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/rms_norm.hpp>
#include <remat/ops/skip_add.hpp>

namespace remat_test {

inline void norm_cases(const AddCase& row) {
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
  const std::vector<OpInputs> skip_inputs = {on({{7}, {7}, {7}, {7}}),       on({{2, 3, 33}, {2, 3, 33}, {33}, {33}}),
                                             on({{4, 1}, {4, 1}, {1}, {1}}), on({{3, 0}, {3, 0}, {0}, {0}}),
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
       .inputs = {on({{7}, {7}, {7}}), on({{2, 3, 33}, {2, 3, 33}, {33}}), on({{4, 1}, {4, 1}, {1}}),
                  on({{3, 100}, {3, 100}, {100}}), on({{0, 5}, {0, 5}, {5}}), on({{3, 0}, {3, 0}, {0}})},
       .is_random = true});
  for (const double rate : {0.0, 0.25})  // the op itself: of one type `skip_add` is an addition
    row({.name = rate > 0 ? "skip_add with dropout" : "skip_add",
         .fn =
             [rate](const auto& in) {
               using T = typename std::decay_t<decltype(in)>::type;
               using O = remat::ops::SkipAdd<T, T>;
               return record(O(remat::ops::next_mask(in.tape, rate, in[1].shape())), in[0], in[1])[O::y];
             },
         .inputs = {on({{1}, {1}}), on({{7}, {7}}), on({{2, 3, 33}, {2, 3, 33}}), on({{4, 1, 5}, {4, 1, 5}}),
                    on({{0, 5}, {0, 5}}), on({{21, 300}, {21, 300}})},
         .is_random = rate > 0});
}

}  // namespace remat_test
