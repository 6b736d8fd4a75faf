// The choice of backends that is in force: fixed by the user, or measured once on a machine and kept.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <optional>
#include <remat/core/machine_cache.hpp>
#include <remat/kernels/gemm/backend.hpp>
#include <remat/kernels/gemm/library.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

/// Measures each class on a tile of matrices as wide as those of a layer, whose rows are a power of two apart: that is
/// where libraries differ most. A library must win by more than noise. Takes some 0.2 s.
template <class = void>
GemmChoice measured_choice() {
  using Clock = std::chrono::steady_clock;
  constexpr Index wide = 2048, deep = 512;
  const std::vector<float> a(wide * deep, 0.5F), b(wide * deep, 0.25F);
  std::vector<float> c(wide * 256);
  GemmChoice choice;
  for (std::size_t index = 0; index < GemmChoice::classes; ++index) {
    const bool is_small = index >= 4;
    Gemm shape{.a = Trans((index & 2U) != 0), .b = Trans((index & 1U) != 0), .m = 256, .n = 512, .k = deep};
    if (is_small) shape.m = 64, shape.n = 128, shape.k = 128;
    shape.lda = shape.ldb = shape.ldc = is_small ? 256 : wide;
    std::array<double, backends.size()> seconds;
    seconds.fill(std::numeric_limits<double>::infinity());
    for (int round = 0; round < 6; ++round)  // in turn, so that a disturbance meets all
      for (std::size_t i = 0; i < backends.size(); ++i) {
        const auto start = Clock::now();
        for (int repeat = 0; repeat < (is_small ? 20 : 1); ++repeat)
          serial_product(backends[i], shape, a.data(), b.data(), nullptr, c.data());
        seconds[i] = std::min(seconds[i], std::chrono::duration<double>(Clock::now() - start).count());
      }
    constexpr double margin = 0.93;
    std::size_t best = 0;
    for (std::size_t i = 1; i < backends.size(); ++i)
      if (seconds[i] < seconds[best] * (best == 0 ? margin : 1)) best = i;
    choice[index] = backends[best];
  }
  return choice;
}

/// From the cache in `folder`, or measured and put there; an empty folder: always measured.
template <class = void>
GemmChoice cached_choice(const std::filesystem::path& folder) {
  std::string backends_here;
  for (const Backend backend : backends) backends_here += ", " + version_of(backend);
  for (const char* limit : {"DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE"})  // they obey these
    if (const char* value = std::getenv(limit)) backends_here.append(", ").append(value);
  const std::string machine = remat::detail::machine_line("products-1") + backends_here;
  return remat::detail::kept_or_measured(
      folder, machine,
      [](const std::string& text) -> std::optional<GemmChoice> {
        try {
          return GemmChoice::parse(text);
        } catch (const Error&) {
          return std::nullopt;
        }
      },
      [] { return measured_choice(); }, [](const GemmChoice& choice) { return choice.text(); });
}

/// REMAT_GEMM if it is set, else the machine's.
template <class = void>
GemmChoice first_choice() {
  if (const char* text = std::getenv("REMAT_GEMM"); text != nullptr && *text != '\0') return GemmChoice::parse(text);
  return backends.size() == 1 ? GemmChoice() : cached_choice(remat::detail::cache_folder());
}
/// A choice, and how tables show it.
struct ChoiceInForce {
  GemmChoice choice;
  std::string text;

  explicit ChoiceInForce(const GemmChoice& made) : choice(made), text(version_of(made[0])) {
    for (std::size_t i = 1; i < GemmChoice::classes; ++i)
      if (made[i] != made[0])
        text.append("; ").append(GemmChoice::class_name(i)).append(" ").append(version_of(made[i]));
  }
};
inline ChoiceInForce& choice_in_force() {
  static ChoiceInForce made(first_choice());
  return made;
}

}  // namespace detail

/// What makes float products in this process. By the first of: `set_gemm_choice`; the environment's REMAT_GEMM, as
/// `GemmChoice::parse` reads it; what was measured, once, on this machine and kept in the user's cache folder. It does
/// not depend on the number of threads.
inline const GemmChoice& gemm_choice() { return detail::choice_in_force().choice; }

/// Fixes the choice from now on, as a saved run may ask: at a program's start, not while others multiply.
inline void set_gemm_choice(const GemmChoice& choice) { detail::choice_in_force() = detail::ChoiceInForce(choice); }

/// The choice as tables show it, with versions: "own", or "own; nt oneDNN 2.6.3" (of products of two matrices, the
/// second of which is transposed).
inline const char* gemm_backend() { return detail::choice_in_force().text.c_str(); }

}}}  // namespace remat::kernels
