// Version, and the inline namespace that keeps translation units with different settings apart.
#pragma once

#define REMAT_VERSION_MAJOR 0
#define REMAT_VERSION_MINOR 1
#define REMAT_VERSION_PATCH 0
#define REMAT_VERSION "0.1.0"

// The GEMM backend is chosen by CMake (REMAT_GEMM); without CMake it is Eigen.
#if !defined(REMAT_GEMM_ONEDNN) && !defined(REMAT_GEMM_BLAS) && !defined(REMAT_GEMM_EIGEN)
#define REMAT_GEMM_EIGEN 1
#endif

// Two settings in one program would otherwise share one merged inline function: name them apart.
#if defined(REMAT_GEMM_ONEDNN)
#define REMAT_ABI_GEMM onednn
#elif defined(REMAT_GEMM_BLAS)
#define REMAT_ABI_GEMM blas
#else
#define REMAT_ABI_GEMM eigen
#endif
#if defined(__AVX512F__)
#define REMAT_ABI_ISA avx512
#elif defined(__AVX2__)
#define REMAT_ABI_ISA avx2
#else
#define REMAT_ABI_ISA baseline
#endif
#define REMAT_ABI_JOIN2(a, b, c) a##_##b##_##c
#define REMAT_ABI_JOIN(a, b, c) REMAT_ABI_JOIN2(a, b, c)
#define REMAT_ABI REMAT_ABI_JOIN(v0_1, REMAT_ABI_GEMM, REMAT_ABI_ISA)

/// The library. The inline namespace `REMAT_ABI` carries version, GEMM backend and instruction set.
namespace remat::inline REMAT_ABI {

/// The version of the headers, "major.minor.patch".
constexpr const char* version() { return REMAT_VERSION; }

}  // namespace remat::inline REMAT_ABI
