// Parameters that are said to be trained, but are not.
#pragma once

#include <algorithm>
#include <memory>
#include <remat/params/registry.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

/// Watches the first steps of a run: a parameter that is not frozen and gets no gradient, or only zeros, is most often
/// one that the loss does not reach. An adapter whose other half begins as zeros has zeros in the first step alone.
class GradientWatch {
 public:
  /// Of all parameters of the registry. An `Error` where nothing is to be trained: all are frozen.
  explicit GradientWatch(const ParameterRegistry& parameters, int steps = 3) : steps_(steps) {
    for (const auto& entry : parameters.entries())
      if (!entry->is_frozen) waiting_.push_back(entry);
    require(!waiting_.empty(), "nothing would be trained: all ", parameters.count(),
            " parameters are frozen; unfreeze some, or add adapters");
  }

  /// Of steps whose updates are made in backward: `tape.backward(loss, watch.in_backward(adamw.in_backward(rate)))`
  /// looks at each gradient before it is used up; `check` follows as ever.
  GradientHook in_backward(GradientHook update) {
    return [this, update = std::move(update)](ParameterEntry& entry) {
      std::erase_if(waiting_, [&](const auto& waiting) { return waiting.get() == &entry && has_any(entry.grad); });
      update(entry);
    };
  }

  /// After each backward and before the update. At the last step that is watched, an `Error` names the parameters that
  /// have never had a gradient other than zero.
  void check() {
    if (step_ >= steps_) return;
    std::erase_if(waiting_, [](const auto& entry) { return entry->has_grad && has_any(entry->grad); });
    if (++step_ < steps_ || waiting_.empty()) return;
    std::string names;
    for (std::size_t i = 0; i < std::min<std::size_t>(5, waiting_.size()); ++i)
      names += (i == 0 ? "" : ", ") + waiting_[i]->path;
    fail("after ", steps_, " steps ", waiting_.size(),
         " of the parameters that are trained have had no gradient: ", names, waiting_.size() > 5 ? ", ..." : "",
         "; the loss does not depend on them: freeze them, or look for what cuts them off");
  }

 private:
  static bool has_any(const AnyTensor& grad) {
    const std::byte* const begin = grad.data();
    return std::any_of(begin, begin + grad.bytes(), [](std::byte b) { return (b & std::byte{0x7f}) != std::byte{}; });
  }

  int steps_, step_ = 0;
  std::vector<std::shared_ptr<ParameterEntry>> waiting_;
};

}}}  // namespace remat::optim
