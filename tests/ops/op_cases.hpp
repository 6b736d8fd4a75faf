// The table of op cases: one row an op or variant. It drives the checks of promises/gradients_are_right_test.cpp.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/transpose.hpp>
#include <remat/ops/unary.hpp>

namespace remat_test {

/// Shapes for an op that works element by element.
inline std::vector<OpInputs> elementwise_inputs() {
  return {on({{}}), on({{1}}), on({{0}}), on({{3, 0, 2}}), on({{7}}), on({{33}}), on({{3, 100}}), on({{41, 1001}})};
}

inline std::vector<OpCase> op_cases() {
  std::vector<OpCase> rows;
  const auto row = [&rows](OpCase op) { rows.push_back(std::move(op)); };

  // general
  row({.name = "sin", .fn = [](const auto& in) { return sin(in[0]); }, .inputs = elementwise_inputs()});

  // fused

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
