// Averages of weights over steps (Polyak and Juditsky 1992), as exponential moving averages.
#pragma once

#include <map>
#include <memory>
#include <remat/core/parallel.hpp>
#include <remat/core/state_dict.hpp>
#include <remat/optim/clip.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

/// Settings of `WeightAverage`.
struct WeightAverageConfig {
  double decay = 0.999;  // share of the average that each update keeps: it looks back over about 1 / (1 - decay) steps
};

/// A copy of each parameter that is trained, which follows its values: steadier than they are, and often better to
/// evaluate. Frozen parameters are their own average and cost nothing. Computes what PyTorch's `AveragedModel` does
/// with `get_ema_multi_avg_fn`.
class WeightAverage {
 public:
  /// Of all parameters of the registry. An `Error` unless the decay is in [0, 1).
  explicit WeightAverage(const ParameterRegistry& parameters, const WeightAverageConfig& config = {})
      : parameters_(parameters.handle()), config_(config) {
    require(config.decay >= 0 && config.decay < 1, "weight_average: decay is ", config.decay, ", must be in [0, 1)");
  }

  /// After each step of the optimizer. A parameter's average begins as the value that it has at the first update at
  /// which it is not frozen. An `Error`, before any average changes, while the averages are swapped in.
  void update();
  /// The parameters get the values of their averages, to evaluate or to save them, and the averages keep theirs: no
  /// byte is copied. Called again, it swaps them back; do not train in between. An `Error`, before anything changes,
  /// while another thread uses a parameter.
  void swap() {
    std::vector<ParameterUseGuard> uses;
    for (const auto& [path, average] : averages_) uses.push_back(average.of->used(ParameterUse::write));
    for (auto& [path, average] : averages_) {
      std::swap(average.of->value, average.value);
      average.of->cast = {}, average.of->cast_from = {};
    }
    is_in_ = !is_in_;
  }
  /// Do the parameters have the values of their averages now?
  bool is_swapped_in() const { return is_in_; }

  /// The averages by path, and how often they were updated ("updates"). No byte is copied before the next update. An
  /// `Error` while they are swapped in.
  StateDict state_dict() const;
  /// Goes on from there. An `Error` names what does not fit the parameters; nothing has changed then.
  void load_state_dict(const StateDict& saved);
  /// How often it was updated.
  Index update_count() const { return updates_; }
  /// Bytes of the averages.
  std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const auto& [path, average] : averages_) bytes += average.value.bytes();
    return bytes;
  }
  /// As it was given.
  const WeightAverageConfig& config() const { return config_; }

 private:
  struct Average {
    std::shared_ptr<ParameterEntry> of;
    AnyTensor value;
  };

  template <class T>
  void follow(Average& average) const {
    T* const mean = reinterpret_cast<T*>(average.value.mutable_data());
    const T* const value = reinterpret_cast<const T*>(average.of->value.data());
    parallel_for(average.value.size(), 2048, [=, fresh = static_cast<T>(1 - config_.decay)](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) mean[i] += fresh * (value[i] - mean[i]);
    });
  }

  std::shared_ptr<const ParameterRegistry> parameters_;
  WeightAverageConfig config_;
  std::map<std::string, Average> averages_;  // by path
  Index updates_ = 0;
  bool is_in_ = false;
};

inline void WeightAverage::update() {
  require(!is_in_, "weight_average: update was called while the averages are swapped in; call swap first");
  std::vector<Average> begun;
  std::vector<Average*> going;
  std::vector<ParameterUseGuard> uses;
  for (const auto& entry : parameters_->entries()) {
    const auto found = averages_.find(entry->path);
    if (found == averages_.end() && entry->is_frozen) continue;
    detail::require_trainable(*entry, "weight_average");
    uses.push_back(entry->used(ParameterUse::read));
    if (found == averages_.end()) {
      begun.push_back({entry, entry->value.copied()});
    } else {
      found->second.value.mutable_data();  // unshared here, where memory may run out
      going.push_back(&found->second);
    }
  }
  for (Average* average : going) {
    if (average->value.dtype == DType::float32) follow<float>(*average);
    if (average->value.dtype == DType::float64) follow<double>(*average);
  }
  for (Average& average : begun) averages_.emplace(average.of->path, std::move(average));
  ++updates_;
}

inline StateDict WeightAverage::state_dict() const {
  require(!is_in_, "weight_average: state_dict was called while the averages are swapped in; call swap first");
  StateDict state;
  for (const auto& [path, average] : averages_) state.tensors[path] = average.value;
  state.numbers["updates"] = static_cast<double>(updates_);
  return state;
}

inline void WeightAverage::load_state_dict(const StateDict& saved) {
  require(!is_in_, "weight_average: load_state_dict was called while the averages are swapped in; call swap first");
  std::map<std::string, Average> averages;
  for (const auto& entry : parameters_->entries()) {
    const auto found = saved.tensors.find(entry->path);
    if (found == saved.tensors.end()) continue;
    const AnyTensor &theirs = found->second, &value = entry->value;
    require(theirs.dtype == value.dtype && theirs.shape == value.shape, "weight_average: the saved average of ",
            entry->path, " is ", name_of(theirs.dtype), theirs.shape, ", the parameter ", name_of(value.dtype),
            value.shape);
    averages.emplace(entry->path, Average{entry, theirs.shared()});
  }
  const auto updates = saved.numbers.find("updates");
  require(averages.size() == saved.tensors.size() && updates != saved.numbers.end(),
          "weight_average: the saved state has ", saved.tensors.size(), " averages, of which ", averages.size(),
          " are of parameters here; it is of another model");
  const auto count = static_cast<Index>(remat::detail::require_count(updates->second, "weight_average", "updates"));
  averages_ = std::move(averages);
  updates_ = count;
}

}}}  // namespace remat::optim
