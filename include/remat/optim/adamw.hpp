// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), in one pass over memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <remat/core/parallel.hpp>
#include <remat/kernels/vector_math.hpp>
#include <remat/optim/clip.hpp>
#include <remat/params/path_pattern.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

/// Settings of the parameters whose path a pattern fits, `*` any run of characters and `?` one, as in
/// `ParameterRegistry::freeze`. What is unset is the config's own.
struct AdamWGroup {
  std::string parameters{};                           // a pattern over their paths
  std::optional<double> learning_rate_scale{};        // a factor of the step's learning rate; unset: 1
  std::optional<double> beta1{}, beta2{}, epsilon{};  // as those of the config
  std::optional<double> weight_decay{};               // of all of them, however many axes they have
};

/// Settings of `AdamW`; the defaults are those of PyTorch.
struct AdamWConfig {
  double beta1 = 0.9;     // share of the mean of gradients that each update keeps
  double beta2 = 0.999;   // of the mean of their squares; small GPTs learn better with 0.99
  double epsilon = 1e-8;  // where it is 0, an element whose gradients were all 0 becomes NaN (0 / 0), as in PyTorch
  double weight_decay = 0.01;  // of parameters with two axes or more; biases and norms decay only where a group says so
  std::vector<AdamWGroup> groups{};  // the first that fits a parameter's path counts for it
};

/// Updates every parameter of a registry, each once however many layers share it. Computes what PyTorch's AdamW does.
class AdamW {
 public:
  /// Of all parameters of the registry. An `Error` names the first setting that is out of its range.
  explicit AdamW(const ParameterRegistry& parameters, const AdamWConfig& config = {})
      : parameters_(parameters.handle()), config_(config) {
    const auto check = [](const std::string& of, const char* name, double value, bool is_good, const char* rule) {
      require(is_good, "adamw: ", of, name, " is ", value, ", must be ", rule);
    };
    const auto check_fraction = [&](const std::string& of, const char* name, double value) {
      check(of, name, value, value >= 0 && value < 1, "in [0, 1)");
    };
    const auto check_size = [&](const std::string& of, const char* name, double value) {
      check(of, name, value, value >= 0 && std::isfinite(value), "finite and at least 0");
    };
    check_fraction("", "beta1", config.beta1);
    check_fraction("", "beta2", config.beta2);
    check_size("", "epsilon", config.epsilon);
    check_size("", "weight_decay", config.weight_decay);
    for (const AdamWGroup& group : config.groups) {
      const std::string of = "group \"" + group.parameters + "\": ";
      check_size(of, "learning_rate_scale", group.learning_rate_scale.value_or(1));
      check_fraction(of, "beta1", group.beta1.value_or(0));
      check_fraction(of, "beta2", group.beta2.value_or(0));
      check_size(of, "epsilon", group.epsilon.value_or(0));
      check_size(of, "weight_decay", group.weight_decay.value_or(0));
    }
  }

  /// One step against the gradients times `grad_scale` (see `clip_scale`), which are cleared. Parameters without a
  /// gradient, frozen ones among them, keep value and state, to go on from there when they have one again; when none
  /// has one it is an `Error`. A step that throws has changed no value.
  void step(double learning_rate, double grad_scale = 1) { update_all(learning_rate, grad_scale); }

  /// For `tape.backward(loss, adamw.in_backward(rate))`: one step, each parameter as soon as its gradient is complete,
  /// which is then freed, so that gradients never exist all at once. Gives the bits that `step(rate, grad_scale)`
  /// would. Clipping by the global norm needs all of them and refuses to follow. A backward that throws has updated
  /// the parameters whose gradients were complete by then, and no others.
  GradientHook in_backward(double learning_rate, double grad_scale = 1) {
    check(learning_rate, grad_scale);
    check_groups();
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
  /// As it was given.
  const AdamWConfig& config() const { return config_; }

 private:
  struct Rule {  // of one parameter
    double rate_scale, beta1, beta2, epsilon, weight_decay;
  };
  struct State {
    AnyTensor mean, square;  // running means of the gradient and of its square
    Rule rule;
    double steps = 0;  // of this parameter, which may have missed some
  };
  struct Update {
    ParameterEntry* entry;
    State* state;
    std::byte *value, *mean, *square;
    ParameterUseGuard use;
  };

  template <class = void>
  void update_all(double learning_rate, double grad_scale);

  // All that can fail, before the first value changes. The value is unshared here: a tape may still read the old one.
  Update prepared(ParameterEntry& entry) {
    detail::require_trainable(entry, "adamw");
    ParameterUseGuard use = entry.used(ParameterUse::write);
    const auto found = states_.find(entry.path);
    State& state = found != states_.end() ? found->second : states_.emplace(entry.path, begun(entry)).first->second;
    return {&entry, &state, entry.writable(), state.mean.mutable_data(), state.square.mutable_data(), std::move(use)};
  }
  State begun(const ParameterEntry& entry) const {
    const AnyTensor empty{entry.value.dtype, entry.value.shape, {}, 0};
    State state{empty, empty, rule_of(entry)};
    for (AnyTensor* tensor : {&state.mean, &state.square}) {
      tensor->storage = pool().allocate(tensor->bytes());
      std::memset(tensor->mutable_data(), 0, tensor->bytes());
    }
    return state;
  }

  Rule rule_of(const ParameterEntry& entry) const {
    const double decay = entry.value.shape.rank() >= 2 ? config_.weight_decay : 0;
    for (const AdamWGroup& group : config_.groups)
      if (remat::detail::fits(group.parameters, entry.path))
        return {group.learning_rate_scale.value_or(1), group.beta1.value_or(config_.beta1),
                group.beta2.value_or(config_.beta2), group.epsilon.value_or(config_.epsilon),
                group.weight_decay.value_or(decay)};
    return {1, config_.beta1, config_.beta2, config_.epsilon, decay};
  }
  /// Once, at the first step: a slip in a pattern would leave its group without effect.
  void check_groups() {
    if (std::exchange(groups_are_checked_, true) || config_.groups.empty()) return;
    std::vector<std::string> paths;
    for (const auto& entry : parameters_->entries()) paths.push_back(entry->path);
    for (const AdamWGroup& group : config_.groups) {
      const bool is_used = std::any_of(paths.begin(), paths.end(), [&](const std::string& path) {
        return remat::detail::fits(group.parameters, path);
      });
      groups_are_checked_ = is_used;
      require(is_used, "adamw: group \"", group.parameters, "\" fits no parameter",
              remat::detail::nearest_paths(group.parameters, paths));
    }
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
    const Rule& rule = update.state->rule;
    const double steps = ++update.state->steps;
    learning_rate *= rule.rate_scale;
    const T keep = static_cast<T>(1 - learning_rate * rule.weight_decay);
    const T rate = static_cast<T>(learning_rate / (1 - std::pow(rule.beta1, steps)));
    const T unbias = static_cast<T>(1 / std::sqrt(1 - std::pow(rule.beta2, steps)));
    const T beta2 = static_cast<T>(rule.beta2), epsilon = static_cast<T>(rule.epsilon);
    const T fresh1 = static_cast<T>(1 - rule.beta1), fresh2 = static_cast<T>(1 - rule.beta2);
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
  bool groups_are_checked_ = false;
};

template <class>
void AdamW::update_all(double learning_rate, double grad_scale) {
  check(learning_rate, grad_scale);
  check_groups();
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

}}}  // namespace remat::optim
