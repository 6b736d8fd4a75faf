// Muon: steps along the momentum with all singular values made alike (Jordan et al. 2024), for hidden matrices.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <remat/core/parallel.hpp>
#include <remat/kernels/orthogonalize.hpp>
#include <remat/optim/adamw.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

/// Settings of the matrices whose path a pattern fits, as of `AdamWGroup`. What is unset is the config's own.
struct MuonGroup {
  std::string parameters{};                     // a pattern over their paths
  std::optional<double> learning_rate_scale{};  // a factor of the step's learning rate; unset: 1
  std::optional<double> momentum{};             // as that of the config
  std::optional<double> weight_decay{};         // as that of the config
};

/// What a matrix [D, F] from D inputs to F outputs multiplies the learning rate by.
enum class MuonRate {
  original,         // sqrt(max(1, F / D)), Jordan's
  match_rms_adamw,  // 0.2 sqrt(max(D, F)), Moonshot's: rates and decays of AdamW can be kept
};

/// Settings of `Muon`; the defaults are those of PyTorch.
struct MuonConfig {
  double momentum = 0.95;       // share of the mean of gradients that each update keeps
  bool nesterov = true;         // orthogonalize the gradient and the momentum
  double weight_decay = 0.1;    // decoupled, of the matrices
  int newton_schulz_steps = 5;  // of the iteration that makes singular values alike
  std::array<double, 3> newton_schulz_coefficients{3.4445, -4.775, 2.0315};  // of its polynomial
  double epsilon = 1e-7;                                                     // least norm that a matrix is divided by
  MuonRate rate = MuonRate::original;                                        // what shapes do to the learning rate
  bool bfloat16_state = false;                                               // of the matrices, as of `AdamWConfig`
  std::vector<MuonGroup> groups{};  // of the matrices: the first that fits a path counts for it
  std::vector<std::string> to_adamw{"*embedding*", "*positions*", "*/head/*"};  // patterns: matrices left to AdamW
  AdamWConfig adamw{};  // of all parameters but the matrices; groups of its own give them another rate
};

namespace detail {

/// Of one parameter.
struct MuonRule {
  double rate_scale, momentum, weight_decay;
  bool bfloat16_state = false;
  std::optional<AdamWRule> adamw{};
};

}  // namespace detail

/// Updates every parameter of a registry, each once however many layers share it: parameters of two axes by Muon, as
/// PyTorch's does, and all others, with those that `to_adamw` names, by AdamW in the same step. Weights [D, F] lie
/// transposed here, so that PyTorch's rows are our columns. The iteration rounds to bfloat16 where PyTorch does, and
/// its products are summed in float in another order: one element in some may differ by a bfloat16's last bit.
class Muon : public Optimizer<Muon, MuonConfig, detail::MuonRule> {
 public:
  /// Of all parameters of the registry. An `Error` names the first setting that is out of its range.
  explicit Muon(const ParameterRegistry& parameters, const MuonConfig& config = {}) : Optimizer(parameters, config) {
    const detail::SettingCheck check{name};
    check.fraction("momentum", config.momentum);
    check.size("weight_decay", config.weight_decay);
    check.size("epsilon", config.epsilon);
    check.is("newton_schulz_steps", config.newton_schulz_steps,
             config.newton_schulz_steps >= 0 && config.newton_schulz_steps < 100, "in [0, 100)");
    for (const double coefficient : config.newton_schulz_coefficients)
      check.is("newton_schulz_coefficients", coefficient, std::isfinite(coefficient), "finite");
    for (const MuonGroup& group : config.groups) {
      const detail::SettingCheck of = check.group(group.parameters);
      of.size("learning_rate_scale", group.learning_rate_scale.value_or(1));
      of.fraction("momentum", group.momentum.value_or(0));
      of.size("weight_decay", group.weight_decay.value_or(0));
    }
    detail::check_adamw(config.adamw, {"muon: adamw"});
  }

 private:
  friend Optimizer;
  static constexpr const char* name = "muon";
  static constexpr const char* state_names[] = {"momentum", "square"};

  bool is_matrix(const std::string& path, const Shape& shape) const {
    return shape.rank() == 2 && std::none_of(config().to_adamw.begin(), config().to_adamw.end(),
                                             [&](const auto& pattern) { return remat::detail::fits(pattern, path); });
  }
  // A group of the one that fits parameters of the other only has no effect, either.
  void require_groups_used(const std::vector<const ParameterEntry*>& entries) const {
    std::vector<std::string> matrices, others;
    for (const ParameterEntry* entry : entries)
      (is_matrix(entry->path, entry->value.shape) ? matrices : others).push_back(entry->path);
    detail::require_used(name, config().groups, matrices);
    detail::require_used("muon: adamw", config().adamw.groups, others);
  }
  detail::MuonRule rule_of(const ParameterEntry& entry) const {
    if (!is_matrix(entry.path, entry.value.shape)) {
      const detail::AdamWRule adamw = detail::adamw_rule(config().adamw, entry);
      return {adamw.rate_scale, 0, 0, adamw.bfloat16_state, adamw};
    }
    const MuonGroup* const group = detail::group_of(config().groups, entry.path);
    if (group == nullptr) return {1, config().momentum, config().weight_decay, config().bfloat16_state};
    return {group->learning_rate_scale.value_or(1), group->momentum.value_or(config().momentum),
            group->weight_decay.value_or(config().weight_decay), config().bfloat16_state};
  }
  static detail::StateShapes state_shapes(const detail::MuonRule& rule, const Shape& shape) {
    return {shape, rule.adamw ? std::optional(shape) : std::nullopt};
  }
  static std::size_t work_bytes(const detail::MuonRule& rule, const AnyTensor& value) {
    if (rule.adamw) return 0;
    const Index rows = value.shape[0], columns = value.shape[1];
    return sizeof(float) *
           static_cast<std::size_t>(aligned_size(rows * columns) + kernels::orthogonalize_scratch(rows, columns));
  }
  static void reserve(const detail::MuonRule& rule, const AnyTensor& value) {
    if (!rule.adamw) kernels::reserve_orthogonalize(value.shape[0], value.shape[1]);
  }
  // So many floats that those behind them lie at a multiple of 64 bytes again.
  static Index aligned_size(Index count) { return (count + 15) / 16 * 16; }

  template <class T>
  void update(const detail::MuonRule& rule, const detail::ParameterStep<T>& step) const {
    if (rule.adamw) return detail::adamw_update(*rule.adamw, step);
    const T scale = static_cast<T>(step.grad_scale), fresh = static_cast<T>(1 - rule.momentum);
    const bool nesterov = config().nesterov;
    const T* const grads = step.grad;
    float* const along = reinterpret_cast<float*>(step.work);
    const detail::Chance chance = step.chance;
    step.template by_means<0>([=, count = step.size()](auto m) {
      parallel_for(count, 2048, [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
          const T g = scale * grads[i], before = m.read(i), mean = before + fresh * (g - before);
          m.write(i, mean, chance.of(i));
          along[i] = static_cast<float>(nesterov ? mean - (mean - g) * fresh : mean);
        }
      });
    });
    const Index rows = step.shape[0], columns = step.shape[1];
    kernels::orthogonalize(rows, columns, along, along + aligned_size(step.size()),
                           {config().newton_schulz_steps, config().newton_schulz_coefficients, config().epsilon});
    const double inputs = static_cast<double>(rows), outputs = static_cast<double>(columns);
    const double factor = config().rate == MuonRate::original ? std::sqrt(std::max(1.0, outputs / inputs))
                                                              : 0.2 * std::sqrt(std::max(inputs, outputs));
    const T rate = static_cast<T>(step.learning_rate * factor);
    const T keep = static_cast<T>(1 - step.learning_rate * rule.weight_decay);
    T* const p = step.value;
    parallel_for(step.size(), 2048, [=](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) p[i] = keep * p[i] - rate * static_cast<T>(along[i]);
    });
  }
};

}}}  // namespace remat::optim
