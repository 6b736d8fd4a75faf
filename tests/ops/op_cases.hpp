// The table of op cases: one row an op or variant, each family's rows in a header of their own. It drives the checks of
// promises/gradients_are_right_test.cpp.
#pragma once

#include <ops/activation_cases.hpp>
#include <ops/attention_cases.hpp>
#include <ops/cross_entropy_cases.hpp>
#include <ops/gather_cases.hpp>
#include <ops/layout_cases.hpp>
#include <ops/loss_cases.hpp>
#include <ops/norm_cases.hpp>
#include <ops/op_case.hpp>
#include <ops/pointwise_cases.hpp>
#include <ops/product_cases.hpp>
#include <ops/reduction_cases.hpp>

namespace remat_test {

inline std::vector<OpCase> op_cases() {
  std::vector<OpCase> rows;
  const AddCase row = [&rows](OpCase op) { rows.push_back(std::move(op)); };
  pointwise_cases(row);
  activation_cases(row);
  reduction_cases(row);
  gather_cases(row);
  product_cases(row);
  layout_cases(row);
  norm_cases(row);
  cross_entropy_cases(row);
  loss_cases(row);
  attention_cases(row);
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
