// Version, and the inline namespace that keeps translation units with different settings apart.
#pragma once

/// The version is major.minor.patch; another major, or before 1.0 another minor, may ask for changes of programs.
#define REMAT_VERSION_MAJOR 0
/// See `REMAT_VERSION_MAJOR`.
#define REMAT_VERSION_MINOR 1
/// See `REMAT_VERSION_MAJOR`.
#define REMAT_VERSION_PATCH 0
/// The three as text.
#define REMAT_VERSION "0.1.0"

// Exponentials are made of roundings and checks of infinities and NaN, which these flags take away. What clang says
// with no macro, -fassociative-math and -funsafe-math-optimizations, is borne: see `as_written` in core/numbers.hpp.
#if defined(__FAST_MATH__)
#error "remat: -ffast-math (in -Ofast too) makes its exponentials and checks wrong; compile without"
#elif defined(__ASSOCIATIVE_MATH__)
#error "remat: -fassociative-math (in -funsafe-math-optimizations too) makes its exponentials wrong; compile without"
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "remat: -ffinite-math-only takes away its checks of infinities and NaN; compile without"
#endif

// The libraries that may multiply matrices beside our own kernel are found by CMake (REMAT_GEMM). Two settings in one
// program would otherwise share one merged inline function: name them apart.
#if defined(REMAT_GEMM_ONEDNN) && defined(REMAT_GEMM_BLAS)
#define REMAT_ABI_GEMM onednn_blas
#elif defined(REMAT_GEMM_ONEDNN)
#define REMAT_ABI_GEMM onednn
#elif defined(REMAT_GEMM_BLAS)
#define REMAT_ABI_GEMM blas
#elif defined(REMAT_GEMM_EIGEN)
#define REMAT_ABI_GEMM eigen
#else
#define REMAT_ABI_GEMM own
#endif
#if defined(REMAT_GEMM_EIGEN) && (defined(REMAT_GEMM_ONEDNN) || defined(REMAT_GEMM_BLAS))
#error "remat: REMAT_GEMM_EIGEN is for programs with no library beside it"
#endif
// Instructions decide how our vectors are laid out, and what compilers and Eigen make of every loop. Each line is a
// step between two machines for which one compiles.
#if defined(__AVX512BF16__)
#define REMAT_ABI_VECTORS avx512bf16
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define REMAT_ABI_VECTORS avx512
#elif defined(__AVX512F__)
#define REMAT_ABI_VECTORS avx512f
#elif defined(__AVX2__)
#define REMAT_ABI_VECTORS avx2
#elif defined(__AVX__)
#define REMAT_ABI_VECTORS avx
#elif defined(__SSE4_1__)
#define REMAT_ABI_VECTORS sse4
#else
#define REMAT_ABI_VECTORS baseline
#endif
#if defined(__FMA__)
#define REMAT_ABI_FMA fma
#else
#define REMAT_ABI_FMA nofma
#endif
#if defined(__AMX_BF16__)
#define REMAT_ABI_TILES amx
#else
#define REMAT_ABI_TILES noamx
#endif
// Containers of the standard library that check themselves are laid out otherwise, and so is what holds them.
#if defined(_GLIBCXX_DEBUG)
#define REMAT_ABI_LIBRARY checked
#else
#define REMAT_ABI_LIBRARY plain
#endif
// Builds that look for mistakes, see core/block_memory.hpp.
#if defined(__SANITIZE_ADDRESS__)
#define REMAT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define REMAT_ASAN 1
#endif
#endif
#if defined(REMAT_POOL_FILL) && defined(REMAT_POOL_GUARD)
#define REMAT_ABI_BLOCKS filled_guarded
#elif defined(REMAT_POOL_FILL)
#define REMAT_ABI_BLOCKS filled
#elif defined(REMAT_POOL_GUARD)
#define REMAT_ABI_BLOCKS guarded
#elif defined(REMAT_ASAN)
#define REMAT_ABI_BLOCKS addressed
#else
#define REMAT_ABI_BLOCKS reused
#endif
#define REMAT_ABI_JOIN2(a, b, c, d, e, f, g) a##_##b##_##c##_##d##_##e##_##f##_##g
#define REMAT_ABI_JOIN(a, b, c, d, e, f, g) REMAT_ABI_JOIN2(a, b, c, d, e, f, g)
#define REMAT_ABI                                                                                            \
  REMAT_ABI_JOIN(v0_1, REMAT_ABI_GEMM, REMAT_ABI_VECTORS, REMAT_ABI_FMA, REMAT_ABI_TILES, REMAT_ABI_LIBRARY, \
                 REMAT_ABI_BLOCKS)

/// The library. The inline namespace `REMAT_ABI` carries version, GEMM backends and instruction set.
namespace remat { inline namespace REMAT_ABI {

/// The version of the headers, "major.minor.patch".
constexpr const char* version() { return REMAT_VERSION; }

/// Bytes of one vector register of the instruction set that is compiled for.
#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

}}  // namespace remat
