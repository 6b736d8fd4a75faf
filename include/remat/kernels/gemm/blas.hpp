// Float and double products by any CBLAS.
#pragma once

#include <cblas.h>

#include <remat/kernels/gemm/shape.hpp>
#include <string>

// OpenBLAS on POSIX threads serializes callers from different OpenMP threads unless it is told to use one thread. Other
// libraries lack these two functions, and follow OpenMP's limit; which one is linked is known only when it runs.
extern "C" {
void openblas_set_num_threads(int count) __attribute__((weak));
char* openblas_get_config(void) __attribute__((weak));
}

namespace remat { inline namespace REMAT_ABI { namespace kernels::blas {

/// "OpenBLAS 0.3.21", or "BLAS" for a library that does not tell.
inline std::string name() {
  if (openblas_get_config == nullptr) return "BLAS";
  const std::string config = openblas_get_config();  // "OpenBLAS 0.3.21 DYNAMIC_ARCH ..."
  return config.substr(0, config.find(' ', config.find(' ') + 1));
}

/// One product with k > 0 in the calling thread, all leading dimensions given. Sets OpenBLAS to one thread for good.
template <class T>
void product(const Gemm& shape, const T* a, const T* b, T* c) {
  static const bool single = openblas_set_num_threads != nullptr && (openblas_set_num_threads(1), true);
  static_cast<void>(single);
  const auto flag = [](Trans trans) { return trans == Trans::no ? CblasNoTrans : CblasTrans; };
  const auto run = [&](auto gemm) {
    gemm(CblasRowMajor, flag(shape.a), flag(shape.b), static_cast<int>(shape.m), static_cast<int>(shape.n),
         static_cast<int>(shape.k), T{1}, a, static_cast<int>(shape.lda), b, static_cast<int>(shape.ldb),
         shape.accumulate ? T{1} : T{0}, c, static_cast<int>(shape.ldc));
  };
  if constexpr (sizeof(T) == sizeof(float))
    run(cblas_sgemm);
  else
    run(cblas_dgemm);
}

}}}  // namespace remat::kernels::blas
