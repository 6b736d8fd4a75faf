// What a program can find out about the machine it runs on, for its start table.
#pragma once

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <remat/core/config.hpp>
#include <string>
#include <utility>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace remat { inline namespace REMAT_ABI { namespace machine {

/// The vector instructions that this CPU and its system offer: "AVX-512 + BF16 + AMX".
inline std::string isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  std::string text = __builtin_cpu_supports("avx512f") ? "AVX-512"
                     : __builtin_cpu_supports("avx2")  ? "AVX2"
                     : __builtin_cpu_supports("avx")   ? "AVX"
                                                       : "SSE2";
  if (!__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma")) text += " + FMA";
  if (__builtin_cpu_supports("avx512bf16")) text += " + BF16";
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned amx_bf16 = 1U << 22;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx_bf16)) text += " + AMX";
  return text;
#elif defined(__aarch64__)
  return "NEON";
#else
  return "unknown";
#endif
}

/// The vector instructions that this program was compiled for.
inline std::string compiled_isa() {
#if defined(__AVX512F__)
  std::string text = "AVX-512";
#elif defined(__AVX2__)
  std::string text = "AVX2";
#elif defined(__AVX__)
  std::string text = "AVX";
#elif defined(__SSE2__)
  std::string text = "SSE2";
#elif defined(__ARM_NEON)
  std::string text = "NEON";
#else
  std::string text = "baseline";
#endif
#if defined(__FMA__) && !defined(__AVX512F__)
  text += " + FMA";
#endif
#if defined(__AVX512BF16__)
  text += " + BF16";
#endif
#if defined(__AMX_BF16__)
  text += " + AMX";
#endif
  return text;
}

/// The CPUs that this process may run on: "4 CPUs (0-2, 7)".
inline std::string affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return "unknown";  // more CPUs than a cpu_set_t holds
  std::string ranges;
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    std::size_t last = cpu;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &set)) ++last;
    if (!ranges.empty()) ranges += ", ";
    ranges += std::to_string(cpu);
    if (last > cpu) ranges.append("-").append(std::to_string(last));
    cpu = last;
  }
  const int count = CPU_COUNT(&set);
  return std::to_string(count).append(count == 1 ? " CPU (" : " CPUs (").append(ranges).append(")");
}

/// Threads of the next parallel region.
inline int threads() { return omp_get_max_threads(); }

/// What threads do while they wait, as the environment says. OMP_WAIT_POLICY: "passive" is asleep. Spinning takes time
/// from the other thread, and makes steps many times slower, as soon as other programs use the same cores; and waking
/// up may take longer than a small op. GOMP_SPINCOUNT, which GNU's OpenMP reads, lets them spin so often before.
inline std::string wait_policy() {
  const auto set = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  const std::string policy = set("OMP_WAIT_POLICY"), spins = set("GOMP_SPINCOUNT");
  if (!spins.empty()) return (policy.empty() ? "not set" : policy) + ", GOMP_SPINCOUNT " + spins;
  return policy.empty() ? "not set, so they spin at first" : policy;
}

/// Physical memory of this process in bytes; 0 where the system does not tell.
inline std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  if (!(statm >> total >> resident)) return 0;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

namespace detail {

using FloatVector = float __attribute__((vector_size(vector_bytes)));

/// `rounds` multiply-adds on each of as many registers as there are indices; returns the flops done. Two units of
/// latency 4 to 5 need 10 chains at a time, and 12 with two constants still fit into 16 registers.
template <std::size_t... Chain>
double fma_burst(int rounds, std::index_sequence<Chain...>) {
  FloatVector x[sizeof...(Chain)], scale, shift;
  for (std::size_t lane = 0; lane < sizeof(FloatVector) / sizeof(float); ++lane) scale[lane] = 0.5F, shift[lane] = 1.0F;
  ((x[Chain] = shift * static_cast<float>(Chain)), ...);  // all different, or a compiler would merge the chains
  for (int round = 0; round < rounds; ++round)
    ((x[Chain] = x[Chain] * scale + shift), ...);  // tends to 2: stays normal
  FloatVector sum = ((x[Chain]) + ...);
  volatile float sink = sum[0];  // or the loop would be dropped
  static_cast<void>(sink);
  return 2.0 * sizeof...(Chain) * (sizeof(FloatVector) / sizeof(float)) * rounds;
}

}  // namespace detail

/// The float multiply-add rate that `threads` threads reach together in registers, in GFLOP/s: the best of 5 runs of
/// 10 ms. A program compiled without FMA is measured on multiply and add.
inline double peak_fma_gflops(int threads) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int run = 0; run < 5; ++run) {
    double rate = 0;
#pragma omp parallel num_threads(threads) reduction(+ : rate)
    {
#pragma omp barrier
      const auto start = Clock::now();
      double flops = 0, seconds = 0;
      while (seconds < 0.010) {
        flops += detail::fma_burst(20000, std::make_index_sequence<12>());
        seconds = std::chrono::duration<double>(Clock::now() - start).count();
      }
      rate += flops / seconds * 1e-9;
    }
    best = std::max(best, rate);
  }
  return best;
}

}}}  // namespace remat::machine
