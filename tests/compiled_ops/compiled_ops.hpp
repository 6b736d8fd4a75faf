// Ops for all tests, compiled once: their forwards and backwards take most of the time that a program needs to compile.
// Every test is compiled with this header in front of it (tests/CMakeLists.txt).
#pragma once

#include <remat/models.hpp>
#include <remat/ops/unary_activations.hpp>
#include <remat/remat.hpp>

// Instantiations are declarations: no template can stand for a list of them.
#define REMAT_TEST_OPS(HOW, T)                                              \
  HOW template struct remat::ops::Activate<T>;                              \
  HOW template struct remat::ops::AddPositions<T>;                          \
  HOW template struct remat::ops::Attention<T>;                             \
  HOW template struct remat::ops::AttentionQkv<T>;                          \
  HOW template struct remat::ops::CombineRows<T>;                           \
  HOW template struct remat::ops::CrossEntropy<T>;                          \
  HOW template struct remat::ops::Dropout<T>;                               \
  HOW template struct remat::ops::Embedding<T>;                             \
  HOW template struct remat::ops::GatedActivate<T>;                         \
  HOW template struct remat::ops::Linear<T>;                                \
  HOW template struct remat::ops::LinearCrossEntropy<T>;                    \
  HOW template struct remat::ops::LoadBalancingLoss<T>;                     \
  HOW template struct remat::ops::Route<T>;                                 \
  HOW template struct remat::ops::TakeRows<T>;                              \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, false>; \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, true>;  \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, false>;   \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, true>;    \
  HOW template struct remat::ops::AttentionOp<T, 1>;                        \
  HOW template struct remat::ops::AttentionOp<T, 3>;                        \
  HOW template struct remat::ops::Concat<T>;                                \
  HOW template struct remat::ops::Matmul<T>;                                \
  HOW template struct remat::ops::Reduce<T>;                                \
  HOW template struct remat::ops::Slice<T>;                                 \
  HOW template struct remat::ops::Transpose<T>;                             \
  HOW template struct remat::ops::Binary<T, remat::functions::Add>;         \
  HOW template struct remat::ops::Binary<T, remat::functions::Subtract>;    \
  HOW template struct remat::ops::Binary<T, remat::functions::Multiply>;    \
  HOW template struct remat::ops::Binary<T, remat::functions::Divide>;      \
  HOW template struct remat::ops::Softmax<T, false>;                        \
  HOW template struct remat::ops::Softmax<T, true>;                         \
  HOW template struct remat::ops::Unary<T, remat::functions::Sin>;          \
  HOW template struct remat::ops::Unary<T, remat::functions::Square>;

// Of bfloat16 branches beside a float skip connection.
#define REMAT_TEST_SKIP_OPS(HOW, T, X)                                           \
  HOW template struct remat::ops::Cast<T, X>;                                    \
  HOW template struct remat::ops::Cast<X, T>;                                    \
  HOW template struct remat::ops::SkipAdd<T, X>;                                 \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, false, X>;   \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, true, X>;    \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, true, X, X>; \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, false, X>;     \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, true, X>;      \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, true, X, X>;

REMAT_TEST_OPS(extern, float)
REMAT_TEST_OPS(extern, double)
REMAT_TEST_OPS(extern, remat::bfloat16)
REMAT_TEST_SKIP_OPS(extern, remat::bfloat16, float)
