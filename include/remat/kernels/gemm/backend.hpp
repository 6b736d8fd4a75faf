// The backends of matrix products that a program has, and which of them makes which products.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <remat/core/error.hpp>
#include <remat/kernels/gemm/shape.hpp>
#include <string>
#include <string_view>

#if defined(REMAT_GEMM_ONEDNN)
#include <remat/kernels/gemm/onednn.hpp>
#endif
#if defined(REMAT_GEMM_BLAS)
#include <remat/kernels/gemm/blas.hpp>
#endif
#if defined(REMAT_GEMM_EIGEN)
#include <remat/kernels/gemm/eigen.hpp>
#endif

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// What multiplies matrices: our own panels, or a library that was there when the program was configured.
enum class Backend : std::uint8_t { own, onednn, blas, eigen };

/// Those of this program, `own` first.
inline constexpr std::array backends = {
    Backend::own,
#if defined(REMAT_GEMM_ONEDNN)
    Backend::onednn,
#endif
#if defined(REMAT_GEMM_BLAS)
    Backend::blas,
#endif
#if defined(REMAT_GEMM_EIGEN)
    Backend::eigen,
#endif
};

/// As REMAT_GEMM names it: "own", "onednn", "blas" or "eigen".
constexpr std::string_view name_of(Backend backend) {
  constexpr std::string_view names[] = {"own", "onednn", "blas", "eigen"};
  return names[static_cast<std::size_t>(backend)];
}

/// The backend with its version, as tables show it: "own", "oneDNN 2.6.3", "OpenBLAS 0.3.21", "Eigen 3.4.0".
inline std::string version_of(Backend backend) {
#if defined(REMAT_GEMM_ONEDNN)
  if (backend == Backend::onednn) return onednn::name();
#endif
#if defined(REMAT_GEMM_BLAS)
  if (backend == Backend::blas) return blas::name();
#endif
#if defined(REMAT_GEMM_EIGEN)
  if (backend == Backend::eigen) return eigen::name();
#endif
  return std::string(name_of(backend));
}

/// The backend of each class of float products: by what is transposed, and whether it takes more than about a tenth of
/// a millisecond. Products of bfloat16 are oneDNN's where the processor multiplies them, else our own, as those of
/// double are; those of very few rows have a way of their own.
class GemmChoice {
 public:
  static constexpr std::size_t classes = 8;
  /// All products by one backend.
  explicit GemmChoice(Backend backend = Backend::own) { of_.fill(backend); }
  /// What `text()` wrote, or a user: items between commas, "own" for all classes or "tn:onednn", "small-nn:blas" for
  /// one, of which later ones rule. Errors: a class or backend that there is not, or not in this program.
  static GemmChoice parse(std::string_view text);

  static constexpr std::size_t class_of(const Gemm& shape) {
    constexpr double large = 16e6;
    const double size = static_cast<double>(shape.m) * static_cast<double>(shape.n) * static_cast<double>(shape.k);
    return (size < large ? 4U : 0U) + (shape.a == Trans::yes ? 2U : 0U) + (shape.b == Trans::yes ? 1U : 0U);
  }
  static std::string class_name(std::size_t index) {
    return std::string(index >= 4 ? "small-" : "") + ((index & 2U) != 0 ? 't' : 'n') + ((index & 1U) != 0 ? 't' : 'n');
  }
  Backend operator[](std::size_t index) const { return of_[index]; }
  Backend& operator[](std::size_t index) { return of_[index]; }
  Backend of(const Gemm& shape) const { return of_[class_of(shape)]; }
  friend bool operator==(const GemmChoice&, const GemmChoice&) = default;

  /// The choice in a line that `parse` reads: "own", or "own,tn:onednn".
  std::string text() const {
    std::string all(name_of(of_[0]));
    for (std::size_t i = 1; i < classes; ++i)
      if (of_[i] != of_[0]) all.append(",").append(class_name(i)).append(":").append(name_of(of_[i]));
    return all;
  }

 private:
  std::array<Backend, classes> of_;
};

inline GemmChoice GemmChoice::parse(std::string_view text) {
  const auto backend_of = [&](std::string_view name) {
    for (const Backend backend : backends)
      if (name_of(backend) == name) return backend;
    std::string all;
    for (const Backend backend : backends) all.append(all.empty() ? "" : ", ").append(name_of(backend));
    fail("matrix products: '", name, "' in '", text, "' is no backend of this program, which has ", all);
  };
  require(!text.empty(), "matrix products: no backend is named; write own");
  GemmChoice choice;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    const std::size_t colon = item.find(':');
    if (colon == std::string_view::npos) {
      choice = GemmChoice(backend_of(item));
      continue;
    }
    std::size_t index = 0;
    while (index < classes && class_name(index) != item.substr(0, colon)) ++index;
    require(index < classes, "matrix products: '", item.substr(0, colon), "' in '", text,
            "' is no class of products: write nn, nt, tn, tt or small-nn and so on");
    choice.of_[index] = backend_of(item.substr(colon + 1));
  }
  return choice;
}

}}}  // namespace remat::kernels
