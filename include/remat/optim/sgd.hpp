// Stochastic gradient descent with momentum (Polyak 1964; Nesterov's as in Sutskever et al. 2013).
#pragma once

#include <algorithm>
#include <optional>
#include <remat/core/parallel.hpp>
#include <remat/optim/optimizer.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

/// Settings of the parameters whose path a pattern fits, as of `AdamWGroup`. What is unset is the config's own.
struct SgdGroup {
  std::string parameters{};                     // a pattern over their paths
  std::optional<double> learning_rate_scale{};  // a factor of the step's learning rate; unset: 1
  std::optional<double> momentum{};             // as that of the config
  std::optional<double> weight_decay{};         // of all of them, however many axes they have
};

/// Settings of `Sgd`; the defaults are those of PyTorch.
struct SgdConfig {
  double momentum = 0;             // share of the last change that each update keeps; with 0 there is no state
  double dampening = 0;            // what is taken from a gradient's share in the momentum, but for the first
  bool nesterov = false;           // step along the gradient and the momentum; needs momentum and no dampening
  double weight_decay = 0;         // added to the gradient, so it is no AdamW's; of parameters with two axes or more
  bool bfloat16_state = false;     // as of `AdamWConfig`; needs momentum
  std::vector<SgdGroup> groups{};  // the first that fits a parameter's path counts for it
};

namespace detail {

/// Of one parameter.
struct SgdRule {
  double rate_scale, momentum, weight_decay;
  bool bfloat16_state = false;
};

}  // namespace detail

/// Updates every parameter of a registry, each once however many layers share it. Computes what PyTorch's SGD does.
class Sgd : public Optimizer<Sgd, SgdConfig, detail::SgdRule> {
 public:
  /// Of all parameters of the registry. An `Error` names the first setting that is out of its range.
  explicit Sgd(const ParameterRegistry& parameters, const SgdConfig& config = {}) : Optimizer(parameters, config) {
    const detail::SettingCheck check{name};
    check.fraction("momentum", config.momentum);
    check.is("dampening", config.dampening, config.dampening >= 0 && config.dampening <= 1, "in [0, 1]");
    check.size("weight_decay", config.weight_decay);
    require(!config.nesterov || (config.momentum > 0 && config.dampening == 0),
            "sgd: nesterov needs momentum > 0 and no dampening, got ", config.momentum, " and ", config.dampening);
    require(!config.bfloat16_state || config.momentum > 0 ||
                std::any_of(config.groups.begin(), config.groups.end(),
                            [](const SgdGroup& group) { return group.momentum.value_or(0) > 0; }),
            "sgd: bfloat16_state is of momentum, which is 0; there is no state");
    for (const SgdGroup& group : config.groups) {
      const detail::SettingCheck of = check.group(group.parameters);
      of.size("learning_rate_scale", group.learning_rate_scale.value_or(1));
      of.fraction("momentum", group.momentum.value_or(0));
      of.size("weight_decay", group.weight_decay.value_or(0));
      require(!config.nesterov || group.momentum.value_or(1) > 0, "sgd: ", of.of, "nesterov needs momentum > 0, got ",
              group.momentum.value_or(1));
    }
  }

 private:
  friend Optimizer;
  static constexpr const char* name = "sgd";
  static constexpr const char* state_names[] = {"momentum", ""};
  static constexpr bool is_elementwise = true;

  detail::SgdRule rule_of(const ParameterEntry& entry) const {
    const double decay = entry.value.shape.rank() >= 2 ? config().weight_decay : 0;
    const SgdGroup* const group = detail::group_of(config().groups, entry.path);
    if (group == nullptr) return {1, config().momentum, decay, config().bfloat16_state};
    return {group->learning_rate_scale.value_or(1), group->momentum.value_or(config().momentum),
            group->weight_decay.value_or(decay), config().bfloat16_state};
  }
  static detail::StateShapes state_shapes(const detail::SgdRule& rule, const Shape& shape) {
    return {rule.momentum > 0 ? std::optional(shape) : std::nullopt, std::nullopt};
  }
  template <class T>
  void update(const detail::SgdRule& rule, const detail::ParameterStep<T>& step) const {
    const T rate = static_cast<T>(step.learning_rate), scale = static_cast<T>(step.grad_scale);
    const T decay = static_cast<T>(rule.weight_decay);
    // The first gradient is the momentum whole, as in PyTorch.
    const T keep = static_cast<T>(step.steps == 1 ? 0 : rule.momentum);
    const T fresh = static_cast<T>(step.steps == 1 ? 1 : 1 - config().dampening);
    const T along = static_cast<T>(config().nesterov ? rule.momentum : 1), direct = config().nesterov ? T(1) : T(0);
    const T* const grads = step.grad;
    T* const p = step.value;
    const detail::Chance chance = step.chance;
    const Index first = step.first;
    if (step.state[0] == nullptr)
      return parallel_for(step.size(), 2048, [=](Index begin, Index end) {
#pragma omp simd
        for (Index i = begin; i < end; ++i) p[i] -= rate * (scale * grads[i] + decay * p[i]);
      });
    step.template by_means<0>([=, count = step.size()](auto m) {
      parallel_for(count, 2048, [=](Index begin, Index end) {
#pragma omp simd
        for (Index i = begin; i < end; ++i) {
          const T g = scale * grads[i] + decay * p[i];
          const T mean = keep * m.read(i) + fresh * g;
          m.write(i, mean, chance.of(first + i));
          p[i] -= rate * (direct * g + along * mean);
        }
      });
    });
  }
};

}}}  // namespace remat::optim
