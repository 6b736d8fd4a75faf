// Products of floats and of bfloat16 by oneDNN.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <remat/core/dtype.hpp>
#include <remat/kernels/gemm/onednn_matmul.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace kernels::onednn {

/// The version of the library that runs, which need not be that of the header.
inline std::string name() {
  const dnnl_version_t& version = *dnnl_version();
  return "oneDNN " + std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
         std::to_string(version.patch);
}

inline bool has(dnnl_cpu_isa_t needed) {
  static const auto isa = static_cast<unsigned>(dnnl_get_effective_cpu_isa());
  return (isa & static_cast<unsigned>(needed)) == static_cast<unsigned>(needed);
}

/// Has oneDNN a matmul primitive that is the fastest way to this product? Before AVX-512 its SGEMM is faster for
/// floats, and small products are not worth a primitive of 0.4 ms and 25 kB for each of their shapes; bfloat16 it would
/// only emulate.
template <class T>
bool has_matmul(const Gemm& shape) {
  if constexpr (std::is_same_v<T, bfloat16>) return has(dnnl_cpu_isa_avx512_core_bf16);
  constexpr double small = 16e6;
  return has(dnnl_cpu_isa_avx512_core) &&
         static_cast<double>(shape.m) * static_cast<double>(shape.n) * static_cast<double>(shape.k) >= small;
}

namespace detail {

/// While it lives, the calling thread handles no signal but those of faults. oneDNN's kernels of floats use a block of
/// the heap as their stack, and a handler that ran meanwhile would write to what lies below that block.
class SignalsHeld {
 public:
  SignalsHeld() {
    static const sigset_t held = [] {
      sigset_t all;
      sigfillset(&all);
      for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, fault);
      return all;
    }();
    pthread_sigmask(SIG_BLOCK, &held, &before_);
  }
  ~SignalsHeld() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

 private:
  sigset_t before_;
};

}  // namespace detail

/// One product with k > 0 in the calling thread (its OpenMP thread limit is 1), all leading dimensions given; `bias`
/// [n] or null is added to each row.
template <class T, class C>
void product(const Gemm& shape, const T* a, const T* b, const float* bias, C* c) {
  const detail::SignalsHeld guard;
  matmul({shape, std::is_same_v<T, bfloat16>, std::is_same_v<C, bfloat16>, bias != nullptr})(a, b, bias, c);
}

/// The same of floats, without a primitive and without bias.
inline void sgemm(const Gemm& shape, const float* a, const float* b, float* c) {
  const detail::SignalsHeld guard;
  const auto letter = [](Trans trans) { return trans == Trans::no ? 'N' : 'T'; };
  detail::check(dnnl_sgemm(letter(shape.a), letter(shape.b), shape.m, shape.n, shape.k, 1.0F, a, shape.lda, b,
                           shape.ldb, shape.accumulate ? 1.0F : 0.0F, c, shape.ldc),
                shape);
}

}}}  // namespace remat::kernels::onednn
