// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), in one pass over memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <remat/core/parallel.hpp>
#include <remat/kernels/vector_math.hpp>
#include <remat/optim/optimizer.hpp>
#include <string>
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
  bool bfloat16_state = false;       // both means in half the memory, rounded up or down by chance so that none is lost
  std::vector<AdamWGroup> groups{};  // the first that fits a parameter's path counts for it
};

namespace detail {

/// Of one parameter.
struct AdamWRule {
  double rate_scale, beta1, beta2, epsilon, weight_decay;
  bool bfloat16_state = false;
};

inline void check_adamw(const AdamWConfig& config, const SettingCheck& check) {
  check.fraction("beta1", config.beta1);
  check.fraction("beta2", config.beta2);
  check.size("epsilon", config.epsilon);
  check.size("weight_decay", config.weight_decay);
  for (const AdamWGroup& group : config.groups) {
    const SettingCheck of = check.group(group.parameters);
    of.size("learning_rate_scale", group.learning_rate_scale.value_or(1));
    of.fraction("beta1", group.beta1.value_or(0));
    of.fraction("beta2", group.beta2.value_or(0));
    of.size("epsilon", group.epsilon.value_or(0));
    of.size("weight_decay", group.weight_decay.value_or(0));
  }
}
inline AdamWRule adamw_rule(const AdamWConfig& config, const ParameterEntry& entry) {
  const double decay = entry.value.shape.rank() >= 2 ? config.weight_decay : 0;
  const AdamWGroup* const group = group_of(config.groups, entry.path);
  const bool is_bfloat16 = config.bfloat16_state;
  if (group == nullptr) return {1, config.beta1, config.beta2, config.epsilon, decay, is_bfloat16};
  return {group->learning_rate_scale.value_or(1), group->beta1.value_or(config.beta1),
          group->beta2.value_or(config.beta2),    group->epsilon.value_or(config.epsilon),
          group->weight_decay.value_or(decay),    is_bfloat16};
}

/// The state is the running means of the gradient and of its square.
template <class T>
void adamw_update(const AdamWRule& rule, const ParameterStep<T>& step) {
  const T keep = static_cast<T>(1 - step.learning_rate * rule.weight_decay);
  const T rate = static_cast<T>(step.learning_rate / (1 - std::pow(rule.beta1, step.steps)));
  const T unbias = static_cast<T>(1 / std::sqrt(1 - std::pow(rule.beta2, step.steps)));
  const T beta2 = static_cast<T>(rule.beta2), epsilon = static_cast<T>(rule.epsilon);
  const T fresh1 = static_cast<T>(1 - rule.beta1), fresh2 = static_cast<T>(1 - rule.beta2);
  const T scale = static_cast<T>(step.grad_scale);
  const T* const grads = step.grad;
  T* const p = step.value;
  const Chance chance = step.chance;
  const Index first = step.first;
  // Like PyTorch's, down to the factor of a square that is multiplied first: (1 - beta2) g g overflows later than g g.
  step.template by_means<0, 1>([=, count = step.size()](auto m, auto v) {
    parallel_for(count, 2048, [=](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) {
        const T g = scale * grads[i], before = m.read(i);
        const T mean = before + fresh1 * (g - before), square = beta2 * v.read(i) + fresh2 * g * g;
        const std::uint32_t bits = chance.of(first + i);
        m.write(i, mean, bits);
        v.write(i, square, bits >> 16);
        p[i] = keep * p[i] - rate * mean / (kernels::fast_sqrt(square) * unbias + epsilon);
      }
    });
  });
}

}  // namespace detail

/// Updates every parameter of a registry, each once however many layers share it. Computes what PyTorch's AdamW does.
class AdamW : public Optimizer<AdamW, AdamWConfig, detail::AdamWRule> {
 public:
  /// Of all parameters of the registry. An `Error` names the first setting that is out of its range.
  explicit AdamW(const ParameterRegistry& parameters, const AdamWConfig& config = {}) : Optimizer(parameters, config) {
    detail::check_adamw(config, {name});
  }

 private:
  friend Optimizer;
  static constexpr const char* name = "adamw";
  static constexpr const char* state_names[] = {"mean", "square"};
  static constexpr bool is_elementwise = true;
  detail::AdamWRule rule_of(const ParameterEntry& entry) const { return detail::adamw_rule(config(), entry); }
  static detail::StateShapes state_shapes(const detail::AdamWRule&, const Shape& shape) { return {shape, shape}; }
  template <class T>
  static void update(const detail::AdamWRule& rule, const detail::ParameterStep<T>& step) {
    detail::adamw_update(rule, step);
  }
};

}}}  // namespace remat::optim
