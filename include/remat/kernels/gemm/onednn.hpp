// Float products by oneDNN. Its C header: the C++ one takes a second to compile and adds nothing here.
#pragma once

#include <oneapi/dnnl/dnnl.h>

#include <remat/kernels/gemm/shape.hpp>
#include <string>

namespace remat::inline REMAT_ABI::kernels::onednn {

/// The version of the library that runs, which need not be that of the header.
inline std::string name() {
  const dnnl_version_t& version = *dnnl_version();
  return "oneDNN " + std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
         std::to_string(version.patch);
}

/// One product with k > 0 in the calling thread (its OpenMP thread limit is 1), all leading dimensions given.
inline void product(const Gemm& shape, const float* a, const float* b, float* c) {
  const auto letter = [](Trans trans) { return trans == Trans::no ? 'N' : 'T'; };
  const dnnl_status_t status = dnnl_sgemm(letter(shape.a), letter(shape.b), shape.m, shape.n, shape.k, 1.0F, a,
                                          shape.lda, b, shape.ldb, shape.accumulate ? 1.0F : 0.0F, c, shape.ldc);
  require(status == dnnl_success, "gemm: oneDNN failed with status ", status, " on a product ", shape.m, " x ", shape.n,
          " x ", shape.k);
}

}  // namespace remat::inline REMAT_ABI::kernels::onednn
