// remat: tensors, a reverse-mode tape with rematerialization, transformer layers, optimizers.
// Opt-in beside it: remat/models.hpp, remat/data.hpp, remat/io.hpp.
#pragma once

#include <remat/autodiff/gradient_check.hpp>
#include <remat/autodiff/plan.hpp>
#include <remat/autodiff/report.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/core/eigen.hpp>
#include <remat/core/machine.hpp>
#include <remat/core/xtensor.hpp>
#include <remat/nn/dropout.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/rms_norm.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/transpose.hpp>
#include <remat/ops/unary.hpp>
#include <remat/ops/unary_activations.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/clip.hpp>
#include <remat/optim/schedule.hpp>
#include <remat/params/registry.hpp>
#include <remat/policy/parse.hpp>
#include <remat/policy/phrase_book.hpp>
