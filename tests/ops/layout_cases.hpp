// Rows of ops that move elements only: transposes, joins, cuts, views.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/squeeze.hpp>
#include <remat/ops/stack.hpp>
#include <remat/ops/transpose.hpp>
#include <remat/ops/unary.hpp>

namespace remat_test {

inline void layout_cases(const AddCase& row) {
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
}

}  // namespace remat_test
