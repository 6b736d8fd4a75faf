// Lion: steps by the sign of a mean of gradients (Chen et al. 2023), half the state of AdamW.
#pragma once

#include <optional>
#include <remat/core/parallel.hpp>
#include <remat/optim/optimizer.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

/// Settings of the parameters whose path a pattern fits, as of `AdamWGroup`. What is unset is the config's own.
struct LionGroup {
  std::string parameters{};                     // a pattern over their paths
  std::optional<double> learning_rate_scale{};  // a factor of the step's learning rate; unset: 1
  std::optional<double> beta1{}, beta2{};       // as those of the config
  std::optional<double> weight_decay{};         // of all of them, however many axes they have
};

/// Settings of `Lion`; the defaults are those of the paper. Rates are 3 to 10 times smaller than AdamW's, decays as
/// many times larger.
struct LionConfig {
  double beta1 = 0.9;               // share of the mean of gradients in what each step follows
  double beta2 = 0.99;              // share of it that each update keeps
  double weight_decay = 0;          // of parameters with two axes or more, decoupled as AdamW's
  bool bfloat16_state = false;      // as of `AdamWConfig`
  std::vector<LionGroup> groups{};  // the first that fits a parameter's path counts for it
};

namespace detail {

/// Of one parameter.
struct LionRule {
  double rate_scale, beta1, beta2, weight_decay;
  bool bfloat16_state = false;
};

}  // namespace detail

/// Updates every parameter of a registry, each once however many layers share it. Computes what the authors' program
/// does.
class Lion : public Optimizer<Lion, LionConfig, detail::LionRule> {
 public:
  /// Of all parameters of the registry. An `Error` names the first setting that is out of its range.
  explicit Lion(const ParameterRegistry& parameters, const LionConfig& config = {}) : Optimizer(parameters, config) {
    const detail::SettingCheck check{name};
    check.fraction("beta1", config.beta1);
    check.fraction("beta2", config.beta2);
    check.size("weight_decay", config.weight_decay);
    for (const LionGroup& group : config.groups) {
      const detail::SettingCheck of = check.group(group.parameters);
      of.size("learning_rate_scale", group.learning_rate_scale.value_or(1));
      of.fraction("beta1", group.beta1.value_or(0));
      of.fraction("beta2", group.beta2.value_or(0));
      of.size("weight_decay", group.weight_decay.value_or(0));
    }
  }

 private:
  friend Optimizer;
  static constexpr const char* name = "lion";
  static constexpr const char* state_names[] = {"mean", ""};
  static constexpr bool is_elementwise = true;

  detail::LionRule rule_of(const ParameterEntry& entry) const {
    const double decay = entry.value.shape.rank() >= 2 ? config().weight_decay : 0;
    const LionGroup* const group = detail::group_of(config().groups, entry.path);
    if (group == nullptr) return {1, config().beta1, config().beta2, decay, config().bfloat16_state};
    return {group->learning_rate_scale.value_or(1), group->beta1.value_or(config().beta1),
            group->beta2.value_or(config().beta2), group->weight_decay.value_or(decay), config().bfloat16_state};
  }
  static detail::StateShapes state_shapes(const detail::LionRule&, const Shape& shape) { return {shape, std::nullopt}; }

  template <class T>
  static void update(const detail::LionRule& rule, const detail::ParameterStep<T>& step) {
    const T rate = static_cast<T>(step.learning_rate), scale = static_cast<T>(step.grad_scale);
    const T keep = static_cast<T>(1 - step.learning_rate * rule.weight_decay);
    const T beta1 = static_cast<T>(rule.beta1), fresh1 = static_cast<T>(1 - rule.beta1);
    const T beta2 = static_cast<T>(rule.beta2), fresh2 = static_cast<T>(1 - rule.beta2);
    const T* const grads = step.grad;
    T* const p = step.value;
    const detail::Chance chance = step.chance;
    const Index first = step.first;
    step.template by_means<0>([=, count = step.size()](auto m) {
      parallel_for(count, 2048, [=](Index begin, Index end) {
#pragma omp simd
        for (Index i = begin; i < end; ++i) {
          const T g = scale * grads[i], mean = m.read(i);
          const T along = beta1 * mean + fresh1 * g;
          // NaN stays NaN: a sign of 0 would hide it, and the parameter would never move again.
          const T sign = along > 0 ? T(1) : along < 0 ? T(-1) : along;
          m.write(i, beta2 * mean + fresh2 * g, chance.of(first + i));
          p[i] = keep * p[i] - rate * sign;
        }
      });
    });
  }
};

}}}  // namespace remat::optim
