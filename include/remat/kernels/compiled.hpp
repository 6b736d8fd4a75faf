// The kernels that take longest to compile, as declarations: remat::compiled has them.
#pragma once

#include <remat/kernels/attention.hpp>
#include <remat/kernels/gemm.hpp>

// Instantiations are declarations: no template can stand for a list of them.
#define REMAT_EACH_KERNEL(HOW, T)                                                                                     \
  HOW template class remat::kernels::packed::Product<T, T>;                                                           \
  HOW template std::size_t remat::kernels::attention_forward_scratch<T>(const remat::kernels::AttentionProblem<T>&);  \
  HOW template std::size_t remat::kernels::attention_backward_scratch<T>(const remat::kernels::AttentionProblem<T>&); \
  HOW template void remat::kernels::attention_forward<T>(const remat::kernels::AttentionProblem<T>&, const T*,        \
                                                         const T*, const T*, T*, remat::Accum<T>*, void*,             \
                                                         remat::Accum<T>*);                                           \
  HOW template void remat::kernels::attention_backward<T>(                                                            \
      const remat::kernels::AttentionProblem<T>&, const T*, const T*, const T*, const T*, const remat::Accum<T>*,     \
      const T*, const remat::kernels::AttentionGradients<T>&, void*, const remat::Accum<T>*);

REMAT_EACH_KERNEL(extern, float)
REMAT_EACH_KERNEL(extern, double)
REMAT_EACH_KERNEL(extern, remat::bfloat16)
extern template class remat::kernels::packed::Product<remat::bfloat16, float>;
