// The choice of who makes which products, as a part of a training's state.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <remat/core/state_dict.hpp>
#include <remat/kernels/gemm.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// For `TrainingStates::add`: a run goes on with the choice of products that it began with (`kernels::gemm_choice`),
/// unless the environment's REMAT_GEMM says otherwise or a library of it is not there any more. Told by
/// `may_differ("products", ChosenProducts::backends())`, `resume` notes the latter.
class ChosenProducts {
 public:
  /// The backends of this program, with versions.
  static std::string backends() {
    std::string text;
    for (const auto backend : kernels::backends) text += (text.empty() ? "" : ", ") + version_of(backend);
    return text;
  }
  /// The number of the backend of each class.
  StateDict state_dict() const {
    StateDict state;
    for (std::size_t i = 0; i < Choice::classes; ++i)
      state.numbers[Choice::class_name(i)] = static_cast<double>(kernels::gemm_choice()[i]);
    return state;
  }
  /// Puts that choice in force, or leaves the one that is.
  void load_state_dict(const StateDict& state) const {
    if (const char* fixed = std::getenv("REMAT_GEMM"); fixed != nullptr && *fixed != '\0') return;
    Choice choice;
    for (std::size_t i = 0; i < Choice::classes; ++i) {
      const auto saved = state.numbers.find(Choice::class_name(i));
      if (saved == state.numbers.end()) return;
      const auto is_saved = [&](auto backend) { return saved->second == static_cast<double>(backend); };
      const auto found = std::find_if(kernels::backends.begin(), kernels::backends.end(), is_saved);
      if (found == kernels::backends.end()) return;
      choice[i] = *found;
    }
    kernels::set_gemm_choice(choice);
  }

 private:
  using Choice = kernels::GemmChoice;
};

}}}  // namespace remat::io
