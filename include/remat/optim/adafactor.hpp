// Adafactor: a mean of squares for each row and column instead of each element (Shazeer and Stern 2018).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/vector_math.hpp>
#include <remat/optim/optimizer.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

/// Settings of the parameters whose path a pattern fits, as of `AdamWGroup`. What is unset is the config's own.
struct AdafactorGroup {
  std::string parameters{};                     // a pattern over their paths
  std::optional<double> learning_rate_scale{};  // a factor of the step's learning rate; unset: 1
  std::optional<double> weight_decay{};         // of all of them, however many axes they have
};

/// Settings of `Adafactor`; the defaults are those of PyTorch.
struct AdafactorConfig {
  double beta2_decay = -0.8;             // a parameter's step t keeps 1 - t^beta2_decay of the mean of squares
  std::optional<double> epsilon1{};      // least root of a mean of squares; unset: the epsilon of the parameter's type
  double epsilon2 = 1e-3;                // least root mean square of a parameter, which its step is scaled by
  double clip = 1;                       // most root mean square of an update before it is scaled
  double weight_decay = 0;               // of parameters with two axes or more, decoupled as AdamW's
  std::vector<AdafactorGroup> groups{};  // the first that fits a parameter's path counts for it
};

namespace detail {

/// Of one parameter.
struct AdafactorRule {
  double rate_scale, weight_decay;
};

}  // namespace detail

/// Updates every parameter of a registry, each once however many layers share it. Computes what PyTorch's Adafactor
/// does: the step is the least of the learning rate and 1 / sqrt(t), times the parameter's own root mean square. Of a
/// parameter [..., R, C] the state is one number for each row and column; of a vector, one for each element.
class Adafactor : public Optimizer<Adafactor, AdafactorConfig, detail::AdafactorRule> {
 public:
  /// Of all parameters of the registry. An `Error` names the first setting that is out of its range.
  explicit Adafactor(const ParameterRegistry& parameters, const AdafactorConfig& config = {})
      : Optimizer(parameters, config) {
    const detail::SettingCheck check{name};
    check.is("beta2_decay", config.beta2_decay, config.beta2_decay <= 0 && std::isfinite(config.beta2_decay),
             "finite and at most 0");
    check.size("epsilon1", config.epsilon1.value_or(0));
    check.size("epsilon2", config.epsilon2);
    check.is("clip", config.clip, config.clip >= 1, "at least 1");
    check.size("weight_decay", config.weight_decay);
    for (const AdafactorGroup& group : config.groups) {
      const detail::SettingCheck of = check.group(group.parameters);
      of.size("learning_rate_scale", group.learning_rate_scale.value_or(1));
      of.size("weight_decay", group.weight_decay.value_or(0));
    }
  }

 private:
  friend Optimizer;
  static constexpr const char* name = "adafactor";
  static constexpr const char* state_names[] = {"row_squares", "column_squares"};

  detail::AdafactorRule rule_of(const ParameterEntry& entry) const {
    const double decay = entry.value.shape.rank() >= 2 ? config().weight_decay : 0;
    const AdafactorGroup* const group = detail::group_of(config().groups, entry.path);
    if (group == nullptr) return {1, decay};
    return {group->learning_rate_scale.value_or(1), group->weight_decay.value_or(decay)};
  }
  static Index columns_of(const Shape& shape) { return shape.rank() < 2 ? shape.size() : shape.back(); }
  static Index matrices_of(const Shape& shape) {
    return shape.rank() < 2 || shape.size() == 0 ? 1 : shape.size() / (shape[shape.rank() - 2] * shape.back());
  }
  // Of rows and of columns; of a vector, one as it is.
  static detail::StateShapes state_shapes(const detail::AdafactorRule&, const Shape& shape) {
    if (shape.rank() < 2) return {shape, std::nullopt};
    const Index matrices = matrices_of(shape);
    return {Shape{matrices, shape[shape.rank() - 2]}, Shape{matrices, shape.back()}};
  }
  // The mean of each matrix's rows.
  static std::size_t work_bytes(const detail::AdafactorRule&, const AnyTensor& value) {
    return static_cast<std::size_t>(matrices_of(value.shape)) * size_of(value.dtype);
  }

  template <class T>
  void update(const detail::AdafactorRule& rule, const detail::ParameterStep<T>& step) const {
    if (step.size() == 0) return;
    const auto root_mean_square = [&](auto&& sum_of_squares) {
      return std::sqrt(parallel_sum<double>(step.size(), block, sum_of_squares) / static_cast<double>(step.size()));
    };
    const double own = root_mean_square([&](Index begin, Index end) {
      return static_cast<double>(kernels::sum_squares(step.value + begin, end - begin));
    });
    update_squares(step);
    const double epsilon1 = config().epsilon1.value_or(static_cast<double>(std::numeric_limits<T>::epsilon()));
    const double size = root_mean_square([&](Index begin, Index end) {
      T change[block];
      write_change(step, epsilon1, begin, end, change);
      return static_cast<double>(kernels::sum_squares(change, end - begin));
    });
    const double rate = std::min(step.learning_rate, 1 / std::sqrt(step.steps)) * std::max(config().epsilon2, own);
    const T by = static_cast<T>(rate / std::max(1.0, size / config().clip));
    const T keep = static_cast<T>(1 - step.learning_rate * rule.weight_decay);
    parallel_for(step.size(), block, [&](Index begin, Index end) {
      T change[block];
      write_change(step, epsilon1, begin, end, change);
      for (Index i = begin; i < end; ++i) step.value[i] = keep * step.value[i] - by * change[i - begin];
    });
  }

  // The running means of squares go on, and `work` gets the mean of those of each matrix's rows.
  template <class T>
  void update_squares(const detail::ParameterStep<T>& step) const {
    const T fresh = static_cast<T>(std::pow(step.steps, config().beta2_decay)), scale = static_cast<T>(step.grad_scale);
    const T* const grads = step.grad;
    T *const by_row = step.kept(0).data, *const by_column = step.kept(1).data;
    const auto square = [=](Index i) { return (scale * grads[i]) * (scale * grads[i]); };
    const auto go_on = [=](T& mean, T now) { mean += fresh * (now - mean); };
    if (by_column == nullptr)  // a vector
      return parallel_for(step.size(), block, [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) go_on(by_row[i], square(i));
      });
    const Index columns = step.shape.back(), all_rows = step.size() / columns;
    const Index matrices = matrices_of(step.shape), rows = all_rows / matrices;
    parallel_for(all_rows, row_grain(columns), [=](Index begin, Index end) {
      for (Index r = begin; r < end; ++r)
        go_on(by_row[r],
              kernels::sum_of<T>(columns, [=](Index j) { return square(r * columns + j); }) / static_cast<T>(columns));
    });
    constexpr Index strip = 256;  // of columns whose sums stay in the first cache
    const Index strips = (columns - 1) / strip + 1;
    parallel_for(matrices * strips, 1, [=](Index begin, Index end) {
      for (Index s = begin; s < end; ++s) {
        const Index matrix = s / strips, first = s % strips * strip, width = std::min(strip, columns - first);
        double sums[strip]{};
        for (Index r = matrix * rows; r < (matrix + 1) * rows; ++r)
          for (Index j = 0; j < width; ++j) sums[j] += static_cast<double>(square(r * columns + first + j));
        for (Index j = 0; j < width; ++j)
          go_on(by_column[matrix * columns + first + j], static_cast<T>(sums[j] / static_cast<double>(rows)));
      }
    });
    T* const means = reinterpret_cast<T*>(step.work);
    for (Index m = 0; m < matrices; ++m) means[m] = kernels::sum(by_row + m * rows, rows) / static_cast<T>(rows);
  }

  // What is taken from the elements [begin, end), but for its factor: gradients over roots of the estimated squares.
  template <class T>
  static void write_change(const detail::ParameterStep<T>& step, double epsilon1, Index begin, Index end, T* change) {
    const bool is_vector = step.state[1] == nullptr;
    const Index columns = columns_of(step.shape), rows = step.size() / (columns * matrices_of(step.shape));
    const T scale = static_cast<T>(step.grad_scale), least = static_cast<T>(epsilon1 * epsilon1);
    for (Index i = begin; i < end;) {
      const Index row = i / columns, column = i % columns, count = std::min(end - i, columns - column);
      const T of_row = is_vector ? T(1) : step.kept(0).data[row];
      const T mean =
          is_vector ? T(1) : std::max(reinterpret_cast<const T*>(step.work)[row / rows], static_cast<T>(epsilon1));
      const T* const of_column =
          is_vector ? step.kept(0).data + column : step.kept(1).data + row / rows * columns + column;
      const T* const grads = step.grad + i;
      T* const to = change + (i - begin);
#pragma omp simd
      for (Index j = 0; j < count; ++j) {
        const T estimate = of_row * of_column[j] / mean;
        to[j] = scale * grads[j] / kernels::fast_sqrt(estimate < least ? least : estimate);
      }
      i += count;
    }
  }

  static constexpr Index block = 2048;  // elements whose change is made at one time
};

}}}  // namespace remat::optim
