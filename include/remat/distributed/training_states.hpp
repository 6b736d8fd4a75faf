// States of a training by several processes: whole on the disk, resumed by any number of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <remat/core/state_dict.hpp>
#include <remat/distributed/group.hpp>
#include <remat/distributed/sharded.hpp>
#include <remat/io/training_state.hpp>
#include <remat/params/registry.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// `io::TrainingStates` of a group: rank 0 alone writes and reads files, in the same format, and the others send it
/// their shards and get theirs. So a state of R ranks is resumed by any number of ranks, or by a program that knows of
/// none. All ranks make the same calls; where rank 0 cannot write or read, all get its `Error`.
class TrainingStates {
 public:
  /// Of all parameters of the registry.
  TrainingStates(Group group, const ParameterRegistry& parameters, io::TrainingStatesConfig config)
      : group_(std::move(group)), parameters_(parameters.handle()), states_(parameters, std::move(config)) {}

  /// A part with `state_dict` and `load_state_dict`, which outlives this; one that is `Sharded` is gathered.
  template <class Part>
  void add(const std::string& name, Part& part) {
    parts_.push_back(std::make_unique<Held>());
    Held& held = *parts_.back();
    held.get = [&part] { return part.state_dict(); };
    held.set = [&part](const StateDict& state) { part.load_state_dict(state); };
    held.is_sharded = is_sharded(part);
    states_.add(name, held);
  }
  /// See `io::TrainingStates`.
  void must_equal(const std::string& fact, const std::string& value) { states_.must_equal(fact, value); }
  /// See `io::TrainingStates`.
  void may_differ(const std::string& fact, const std::string& value) { states_.may_differ(fact, value); }

  /// As `io::TrainingStates::save`. Collective.
  void save(Index step, std::optional<double> loss = {}) {
    for (const auto& held : parts_) held->state = held->get();
    on_first([&] { states_.save(step, loss); });
    for (const auto& held : parts_) held->state = {};
  }
  /// As `io::TrainingStates::wait`. Collective.
  void wait() {
    on_first([&] { states_.wait(); });
  }
  /// As `io::TrainingStates::resume`; folder and notes are rank 0's alone. Collective.
  std::optional<io::Resumed> resume() {
    std::optional<io::Resumed> found;
    on_first([&] { found = states_.resume(); });
    const auto step = group_.broadcast(static_cast<std::int64_t>(found ? found->step : -1));
    if (step < 0) return {};
    if (!found) found = io::Resumed{.step = step};
    if (group_.size() > 1) give_parameters();
    for (const auto& held : parts_) {
      held->set(held->is_sharded || group_.size() == 1 ? held->state : given(held->state));
      held->state = {};
    }
    return found;
  }

 private:
  /// Between a part and the files: what is gathered for a save, and what was read and not yet given out.
  struct Held {
    std::function<StateDict()> get{};
    std::function<void(const StateDict&)> set{};
    bool is_sharded = false;
    StateDict state{};
    StateDict state_dict() const { return state; }
    void load_state_dict(const StateDict& read) { state = read; }
  };
  template <class Inner>
  static bool is_sharded(const Sharded<Inner>&) {
    return true;
  }
  template <class Part>
  static bool is_sharded(const Part&) {
    return false;
  }

  /// Runs `action` on rank 0; all ranks get its `Error`.
  template <class Action>
  void on_first(Action&& action) {
    std::string failure;
    if (group_.is_first()) try {
        action();
      } catch (const Error& error) {
        if (group_.size() == 1) throw;
        failure = error.what();
      }
    failure = group_.broadcast(std::move(failure));
    require(failure.empty(), failure);
  }
  /// Values and gradients that rank 0 has read.
  void give_parameters() {
    for (const auto& entry : parameters_->entries()) {
      const auto use = entry->used(ParameterUse::write);
      if (!entry->is_frozen) group_.broadcast(std::span(entry->writable(), entry->value.bytes()));
      const bool has_grad = group_.broadcast(static_cast<std::uint8_t>(entry->has_grad)) != 0;
      if (has_grad) group_.broadcast(std::span(entry->grad_buffer().mutable_data(), entry->grad_buffer().bytes()));
      entry->zero_grad();
      entry->has_grad = has_grad;
    }
  }
  /// What rank 0 has read of a part.
  StateDict given(const StateDict& state) const {
    StateDict all;
    const auto give = [&](const auto& of_first, auto&& put) {
      auto next = of_first.begin();
      for (auto left = group_.broadcast(static_cast<std::uint64_t>(of_first.size())); left > 0; --left) {
        const std::string name = group_.broadcast(group_.is_first() ? next->first : std::string());
        put(name, group_.is_first() ? next->second : decltype(next->second)());
        if (group_.is_first()) ++next;
      }
    };
    give(state.numbers,
         [&](const std::string& name, double number) { all.numbers.emplace(name, group_.broadcast(number)); });
    give(state.tensors, [&](const std::string& name, const AnyTensor& tensor) {
      all.tensors.emplace(name, group_.broadcast(tensor));
    });
    return all;
  }

  Group group_;
  std::shared_ptr<const ParameterRegistry> parameters_;
  std::vector<std::unique_ptr<Held>> parts_{};
  io::TrainingStates states_;
};

}}}  // namespace remat::distributed
