// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), in one pass over memory.
#pragma once

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <remat/core/parallel.hpp>
#include <remat/kernels/vector_math.hpp>
#include <remat/optim/clip.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;   // small GPTs learn better with 0.99
  double epsilon = 1e-8;  // where it is 0, an element whose gradients were all 0 becomes NaN (0 / 0), as in PyTorch
  double weight_decay = 0.01;  // of parameters with two axes or more; biases and norms never decay
};

/// Updates every parameter of a registry, each once however many layers share it. Computes what PyTorch's AdamW does.
class AdamW {
 public:
  explicit AdamW(const ParameterRegistry& parameters, const AdamWConfig& config = {})
      : parameters_(parameters.handle()), config_(config) {
    const auto fraction = [](double beta) { return beta >= 0 && beta < 1; };
    require(fraction(config.beta1), "adamw: beta1 is ", config.beta1, ", must be in [0, 1)");
    require(fraction(config.beta2), "adamw: beta2 is ", config.beta2, ", must be in [0, 1)");
    require(config.epsilon >= 0 && std::isfinite(config.epsilon), "adamw: epsilon is ", config.epsilon,
            ", must be finite and at least 0");
    require(config.weight_decay >= 0 && std::isfinite(config.weight_decay), "adamw: weight_decay is ",
            config.weight_decay, ", must be finite and at least 0");
  }

  /// One step against the gradients times `grad_scale` (see `clip_scale`), which are cleared. Parameters without a
  /// gradient, frozen ones among them, keep value and state, to go on from there when they have one again; when none
  /// has one it is an `Error`. A step that throws has changed no value.
  void step(double learning_rate, double grad_scale = 1) {
    check(learning_rate, grad_scale);
    std::vector<Update> updates;
    for (const auto& entry : parameters_->entries())
      if (entry->has_grad) updates.push_back(prepared(*entry));
    const bool is_frozen = parameters_->count() > 0 && parameters_->trainable_count() == 0;
    require(!updates.empty(), "adamw: no parameter has a gradient; ",
            is_frozen ? "all are frozen, parameters.unfreeze those to train"
                      : "call tape.backward(loss) before step (in_backward leaves none: it has made its step)");
    for (const Update& update : updates) apply(update, learning_rate, grad_scale);
    ++steps_;
  }

  /// For `tape.backward(loss, adamw.in_backward(rate))`: one step, each parameter as soon as its gradient is complete,
  /// which is then freed, so that gradients never exist all at once. Gives the bits that `step(rate, grad_scale)`
  /// would. Clipping by the global norm needs all of them and refuses to follow. A backward that throws has updated
  /// the parameters whose gradients were complete by then, and no others.
  GradientHook in_backward(double learning_rate, double grad_scale = 1) {
    check(learning_rate, grad_scale);
    return [this, learning_rate, grad_scale, is_counted = false](ParameterEntry& entry) mutable {
      apply(prepared(entry), learning_rate, grad_scale);
      steps_ += is_counted ? 0 : 1;
      is_counted = true;
      entry.grad = {};
      entry.consumed = true;
    };
  }

  /// How many steps have updated a parameter: calls of `step` that did not throw, and hooks of `in_backward` that a
  /// backward has called. Corrections for bias count each parameter's own updates.
  double step_count() const { return steps_; }
  /// Bytes of the running means, which are made at a parameter's first gradient.
  std::size_t state_bytes() const {
    std::size_t bytes = 0;
    for (const auto& [path, state] : states_) bytes += state.mean.bytes() + state.square.bytes();
    return bytes;
  }
  const AdamWConfig& config() const { return config_; }

 private:
  struct State {
    AnyTensor mean, square;  // running means of the gradient and of its square
    double steps = 0;        // of this parameter, which may have missed some
  };
  struct Update {
    ParameterEntry* entry;
    State* state;
    std::byte *value, *mean, *square;
    ParameterUseGuard use;
  };

  // All that can fail, before the first value changes. The value is unshared here: a tape may still read the old one.
  Update prepared(ParameterEntry& entry) {
    detail::require_trainable(entry, "adamw");
    ParameterUseGuard use = entry.used(ParameterUse::write);
    const auto found = states_.find(entry.path);
    State& state = found != states_.end() ? found->second : states_.emplace(entry.path, zeros(entry)).first->second;
    return {&entry, &state, entry.writable(), state.mean.mutable_data(), state.square.mutable_data(), std::move(use)};
  }
  static State zeros(const ParameterEntry& entry) {
    State state{{entry.value.dtype, entry.value.shape, {}, 0}, {entry.value.dtype, entry.value.shape, {}, 0}};
    for (AnyTensor* tensor : {&state.mean, &state.square}) {
      tensor->storage = pool().allocate(tensor->bytes());
      std::memset(tensor->mutable_data(), 0, tensor->bytes());
    }
    return state;
  }

  static void check(double learning_rate, double grad_scale) {
    require(std::isfinite(learning_rate) && learning_rate >= 0, "adamw: learning rate ", learning_rate,
            " must be finite and at least 0");
    require(std::isfinite(grad_scale), "adamw: gradient scale ", grad_scale, " must be finite");
  }
  void apply(const Update& update, double learning_rate, double grad_scale) const {
    if (update.entry->value.dtype == DType::float32) apply_to<float>(update, learning_rate, grad_scale);
    if (update.entry->value.dtype == DType::float64) apply_to<double>(update, learning_rate, grad_scale);
    update.entry->has_grad = false;
  }
  template <class T>
  void apply_to(const Update& update, double learning_rate, double grad_scale) const {
    const double steps = ++update.state->steps;
    const bool decays = update.entry->value.shape.rank() >= 2;
    const T keep = static_cast<T>(decays ? 1 - learning_rate * config_.weight_decay : 1);
    const T rate = static_cast<T>(learning_rate / (1 - std::pow(config_.beta1, steps)));
    const T unbias = static_cast<T>(1 / std::sqrt(1 - std::pow(config_.beta2, steps)));
    const T beta2 = static_cast<T>(config_.beta2), epsilon = static_cast<T>(config_.epsilon);
    const T fresh1 = static_cast<T>(1 - config_.beta1), fresh2 = static_cast<T>(1 - config_.beta2);
    const T scale = static_cast<T>(grad_scale);
    const T* const grads = reinterpret_cast<const T*>(update.entry->grad.data());
    T* const p = reinterpret_cast<T*>(update.value);
    T *const m = reinterpret_cast<T*>(update.mean), *const v = reinterpret_cast<T*>(update.square);
    // Like PyTorch's, down to the factor of a square that is multiplied first: (1 - beta2) g g overflows later than g
    // g.
    parallel_for(update.entry->value.size(), 2048, [=](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) {
        const T g = scale * grads[i];
        const T mean = m[i] + fresh1 * (g - m[i]), square = beta2 * v[i] + fresh2 * g * g;
        m[i] = mean;
        v[i] = square;
        p[i] = keep * p[i] - rate * mean / (kernels::fast_sqrt(square) * unbias + epsilon);
      }
    });
  }

  std::shared_ptr<const ParameterRegistry> parameters_;
  AdamWConfig config_;
  std::map<std::string, State> states_;  // by path: the order of building layers does not matter
  double steps_ = 0;
};

}}}  // namespace remat::optim
