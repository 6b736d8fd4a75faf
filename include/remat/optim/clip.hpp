// Clipping by the norm of all gradients together (Pascanu, Mikolov, Bengio 2013).
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/params/registry.hpp>
#include <unordered_map>

namespace remat { inline namespace REMAT_ABI { namespace optim {

namespace detail {

/// Squares are added by runs of so many elements, whoever has them.
inline constexpr Index squares_run = 16384;

/// The sum of squares, in double: lanes and runs are fixed, so the bits do not depend on the number of threads.
template <class T>
double squared_norm(const T* data, Index size) {
  return parallel_sum<double>(size, squares_run, [data](Index begin, Index end) {
    return kernels::sum_of<double>(
        end - begin, [x = data + begin](Index i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
  });
}

template <class = void>
double squared_norm(const AnyTensor& tensor) {
  if (tensor.dtype == DType::float32) return squared_norm(reinterpret_cast<const float*>(tensor.data()), tensor.size());
  return squared_norm(reinterpret_cast<const double*>(tensor.data()), tensor.size());
}

template <class T>
void scale(T* data, Index size, double factor) {
  parallel_for(size, 16384, [data, by = static_cast<T>(factor)](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) data[i] *= by;
  });
}

/// Optimizers compute in the parameter's own type; parameters are kept in float32 or float64.
inline void require_trainable(const ParameterEntry& entry, const char* what) {
  require(entry.value.dtype == DType::float32 || entry.value.dtype == DType::float64, what, ": ", entry.path, " holds ",
          name_of(entry.value.dtype), "; trained parameters are float32 or float64");
}

}  // namespace detail

/// The Euclidean norm of all gradients as one vector. Their squares can be summed as they finish, while they are in the
/// cache, instead of in a pass of its own over memory: `tape.backward(loss, norm.in_backward())`.
class GlobalNorm {
 public:
  /// Of all parameters of the registry.
  explicit GlobalNorm(const ParameterRegistry& parameters) : parameters_(parameters.handle()) {}

  /// For one backward, the last before `value`; gradients must not be changed between the two.
  GradientHook in_backward() {
    squares_.clear();
    return [this](ParameterEntry& entry) {
      detail::require_trainable(entry, "global_norm");
      squares_[&entry] = detail::squared_norm(entry.grad);
    };
  }
  /// Parameters without a gradient count as zeros. The same bits whether squares were summed in backward or not. An
  /// `Error` names the first parameter, in order of path, whose gradient is not finite.
  double value() const {
    double sum = 0;
    for (const auto& entry : parameters_->entries()) {
      require(!entry->consumed, "global_norm: the gradient of ", entry->path,
              " was used up by its update in backward; clip by the global norm with `step` instead of "
              "in_backward");
      const auto use = entry->used(ParameterUse::train);
      if (!entry->has_grad) continue;
      detail::require_trainable(*entry, "global_norm");
      const auto known = squares_.find(entry.get());
      sum += known != squares_.end() ? known->second : detail::squared_norm(entry->grad);
      require(std::isfinite(sum), "global_norm: the gradient of ", entry->path,
              " is not finite, or too large to square; lower the learning rate or look at the loss of this step");
    }
    return std::sqrt(sum);
  }

 private:
  std::shared_ptr<const ParameterRegistry> parameters_;
  std::unordered_map<const ParameterEntry*, double> squares_;
};

/// The norm of the gradients as they are; see `GlobalNorm`.
inline double global_norm(const ParameterRegistry& parameters) { return GlobalNorm(parameters).value(); }

/// What gradients of norm `norm` are multiplied by so that the norm becomes at most `max_norm`; never above 1. Give it
/// to an optimizer's `step`, and clipping costs no pass over memory. An `Error` unless `norm` is finite and at least 0
/// and `max_norm` above 0; an infinite one clips nothing.
inline double clip_scale(double norm, double max_norm) {
  require(
      std::isfinite(norm) && norm >= 0, "clip_scale: the norm is ", norm,
      ", must be finite and at least 0; give it what global_norm returns, which names a gradient that is not finite");
  require(max_norm > 0, "clip_scale: the largest norm is ", max_norm,
          ", must be above 0; to clip nothing, leave clipping out");
  return std::min(1.0, max_norm / (norm + 1e-6));
}

/// Scales all gradients in place so that their norm is at most `max_norm`; returns the norm before. An `Error`, before
/// any gradient changes, where `global_norm` or `clip_scale` has one.
inline double clip_grad_norm(const ParameterRegistry& parameters, double max_norm) {
  const double norm = global_norm(parameters), factor = clip_scale(norm, max_norm);
  if (factor == 1) return norm;
  for (const auto& entry : parameters.entries()) {
    const auto use = entry->used(ParameterUse::train);
    if (!entry->has_grad) continue;
    AnyTensor& grad = entry->grad;
    std::byte* const data = grad.mutable_data();
    if (grad.dtype == DType::float32) detail::scale(reinterpret_cast<float*>(data), grad.size(), factor);
    if (grad.dtype == DType::float64) detail::scale(reinterpret_cast<double*>(data), grad.size(), factor);
  }
  return norm;
}

}}}  // namespace remat::optim
