// What optimizers have in common: groups of parameters, state by path, counted steps, updates in backward.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <remat/core/state_dict.hpp>
#include <remat/optim/clip.hpp>
#include <remat/optim/kept_means.hpp>
#include <remat/params/path_pattern.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace optim {

namespace detail {

/// Refuses settings out of their range by name, those of a group with its pattern.
struct SettingCheck {
  const char* optimizer;
  std::string of{};

  void is(const char* name, double value, bool is_good, const char* rule) const {
    require(is_good, optimizer, ": ", of, name, " is ", value, ", must be ", rule);
  }
  void fraction(const char* name, double value) const { is(name, value, value >= 0 && value < 1, "in [0, 1)"); }
  void size(const char* name, double value) const {
    is(name, value, value >= 0 && std::isfinite(value), "finite and at least 0");
  }
  SettingCheck group(const std::string& pattern) const { return {optimizer, "group \"" + pattern + "\": "}; }
};

/// The first group whose pattern fits the path; null where none does.
template <class Group>
const Group* group_of(const std::vector<Group>& groups, const std::string& path) {
  for (const Group& group : groups)
    if (remat::detail::fits(group.parameters, path)) return &group;
  return nullptr;
}
/// A slip in a pattern would leave its group without effect.
template <class Group>
void require_used(const char* optimizer, const std::vector<Group>& groups, const std::vector<std::string>& paths) {
  for (const Group& group : groups)
    require(std::any_of(paths.begin(), paths.end(),
                        [&](const std::string& path) { return remat::detail::fits(group.parameters, path); }),
            optimizer, ": group \"", group.parameters, "\" fits no parameter",
            remat::detail::nearest_paths(group.parameters, paths));
}

/// Shapes of the tensors that an optimizer keeps for one parameter, which begin as zeros.
using StateShapes = std::array<std::optional<Shape>, 2>;

/// Elements [begin, end) of a parameter.
struct ElementRange {
  Index begin = 0, end = 0;
};

/// Does a rule ask for its state in bfloat16?
template <class Rule>
bool keeps_bfloat16(const Rule& rule) {
  if constexpr (requires { rule.bfloat16_state; }) return rule.bfloat16_state;
  return false;
}

/// One parameter in one step: where its values lie, and what its state holds.
template <class T>
struct ParameterStep {
  const Shape& shape;
  T* value;
  const T* grad;
  std::array<std::byte*, 2> state;  // null where there is none
  bool is_bfloat16;                 // so is the state, else of T
  std::byte* work;                  // the bytes that the optimizer asked for
  double steps;                     // of this parameter, this one among them
  double learning_rate;             // with the factor of its group
  double grad_scale;
  Index first;    // of its elements, where only some are updated
  Chance chance;  // by which numbers of the state are rounded

  Index size() const { return shape.size(); }
  template <class Stored = T>
  KeptMeans<T, Stored> kept(std::size_t i) const {
    return {reinterpret_cast<Stored*>(state[i])};
  }
  /// `rule(means)` with the state's numbers as they lie there, one array for each of I.
  template <std::size_t... I, class Rule>
  void by_means(Rule&& rule) const {
    if constexpr (std::is_same_v<T, float>)
      if (is_bfloat16) return rule(kept<std::uint16_t>(I)...);
    rule(kept(I)...);
  }
};

}  // namespace detail

/// The part of every optimizer that is not its rule: each parameter of a registry is updated once however many layers
/// share it, by the first group that fits its path; what has no gradient is left alone and costs no state. `Self` has
/// the `name` in errors, `state_names`, `rule_of(entry)`, `state_shapes(rule, shape)` and `update(rule, step)`, which
/// may not throw.
template <class Self, class Settings, class Rule>
class Optimizer {
 public:
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
      const Update update = prepared(entry);
      apply(update, learning_rate, grad_scale, work_for(self().work_bytes(update.state->rule, entry.value)));
      steps_ += is_counted ? 0 : 1;
      is_counted = true;
      entry.grad = {};
      entry.consumed = true;
    };
  }

  /// How many steps have updated a parameter: calls of `step` that did not throw, and hooks of `in_backward` that a
  /// backward has called. Corrections for bias count each parameter's own updates.
  double step_count() const { return steps_; }
  /// Bytes of what is kept from step to step, which is made at a parameter's first gradient.
  std::size_t state_bytes() const {
    std::size_t bytes = 0;
    for (const auto& [path, state] : states_)
      for (const AnyTensor& tensor : state.tensors) bytes += tensor.storage ? tensor.bytes() : 0;
    return bytes;
  }
  /// What is kept from step to step, by path and name ("gpt/final_norm/scale/mean"), with the number of steps of each
  /// parameter ("gpt/final_norm/scale/steps") and of all ("steps"). No byte is copied before the next step.
  StateDict state_dict() const { return saved_state(); }
  /// Goes on from there. An `Error` names what does not fit the parameters and this optimizer; nothing has changed
  /// then.
  void load_state_dict(const StateDict& state) { load_state(state); }
  /// As it was given.
  const Settings& config() const { return config_; }

  /// @cond inside
  template <class = void>
  void update_all(double learning_rate, double grad_scale);
  template <class = void>
  StateDict saved_state() const;
  template <class = void>
  void load_state(const StateDict& saved);
  /// From now on it updates, and keeps state for, these elements of each parameter alone: others are another process's.
  /// The state is then of one axis. Only for rules that are one and the same for every element, and before the first
  /// step.
  void update_only(std::function<detail::ElementRange(const ParameterEntry&)> range) {
    static_assert(Self::is_elementwise, "this optimizer's rule reads whole parameters");
    range_ = std::move(range);
  }

 protected:
  Optimizer(const ParameterRegistry& parameters, const Settings& config)
      : parameters_(parameters.handle()), config_(config) {}

  // What an optimizer with more than one list of groups, or with room to work in, replaces.
  void require_groups_used(const std::vector<const ParameterEntry*>& entries) const {
    std::vector<std::string> paths;
    for (const ParameterEntry* entry : entries) paths.push_back(entry->path);
    detail::require_used(Self::name, config_.groups, paths);
  }
  static std::size_t work_bytes(const Rule&, const AnyTensor&) { return 0; }
  // Whatever else `update` takes memory for.
  static void reserve(const Rule&, const AnyTensor&) {}
  static constexpr bool is_elementwise = false;
  /// @endcond

 private:
  struct State {
    Rule rule;
    std::array<AnyTensor, 2> tensors;
    double steps = 0;              // of this parameter, which may have missed some
    detail::ElementRange range{};  // of its elements, those that are updated
  };
  struct Update {
    ParameterEntry* entry;
    State* state;
    std::byte* value;
    std::array<std::byte*, 2> tensors;
    ParameterUseGuard use;
  };

  const Self& self() const { return static_cast<const Self&>(*this); }

  // All that can fail, before the first value changes. The value is unshared here: a tape may still read the old one.
  Update prepared(ParameterEntry& entry) {
    detail::require_trainable(entry, Self::name);
    ParameterUseGuard use = entry.used(ParameterUse::write);
    const auto found = states_.find(entry.path);
    State& state = found != states_.end() ? found->second : states_.emplace(entry.path, begun(entry)).first->second;
    self().reserve(state.rule, entry.value);
    std::byte* const value = entry.writable();
    const auto place = [](AnyTensor& tensor) { return tensor.storage ? tensor.mutable_data() : nullptr; };
    return {&entry, &state, value, {place(state.tensors[0]), place(state.tensors[1])}, std::move(use)};
  }
  detail::ElementRange range_of(const ParameterEntry& entry) const {
    return range_ ? range_(entry) : detail::ElementRange{0, entry.value.size()};
  }
  detail::StateShapes shapes_of(const Rule& rule, const ParameterEntry& entry) const {
    const detail::ElementRange range = range_of(entry);
    return self().state_shapes(rule, range_ ? Shape{range.end - range.begin} : entry.value.shape);
  }
  /// What the state of a parameter is made of.
  static DType state_dtype(const Rule& rule, const ParameterEntry& entry) {
    if (!detail::keeps_bfloat16(rule)) return entry.value.dtype;
    require(entry.value.dtype == DType::float32, Self::name, ": bfloat16_state is of float32 parameters, but ",
            entry.path, " holds ", name_of(entry.value.dtype));
    return DType::bfloat16;
  }
  State begun(const ParameterEntry& entry) const {
    State state{self().rule_of(entry), {}, 0, range_of(entry)};
    const detail::StateShapes shapes = shapes_of(state.rule, entry);
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      if (!shapes[i]) continue;
      AnyTensor& tensor = state.tensors[i] = {state_dtype(state.rule, entry), *shapes[i], {}, 0};
      tensor.storage = pool().allocate(tensor.bytes());
      std::memset(tensor.mutable_data(), 0, tensor.bytes());
    }
    return state;
  }
  /// Once, at the first step.
  void check_groups() {
    if (groups_are_checked_) return;
    const auto entries = parameters_->entries();
    std::vector<const ParameterEntry*> all;
    for (const auto& entry : entries) all.push_back(entry.get());
    self().require_groups_used(all);
    groups_are_checked_ = true;
  }
  static void check(double learning_rate, double grad_scale) {
    require(std::isfinite(learning_rate) && learning_rate >= 0, Self::name, ": learning rate ", learning_rate,
            " must be finite and at least 0");
    require(std::isfinite(grad_scale), Self::name, ": gradient scale ", grad_scale, " must be finite");
  }
  static Storage work_for(std::size_t bytes) { return bytes > 0 ? pool().allocate(bytes) : Storage(); }

  void apply(const Update& update, double learning_rate, double grad_scale, const Storage& work) const {
    if (update.entry->value.dtype == DType::float32) apply_to<float>(update, learning_rate, grad_scale, work);
    if (update.entry->value.dtype == DType::float64) apply_to<double>(update, learning_rate, grad_scale, work);
    update.entry->has_grad = false;
  }
  template <class T>
  void apply_to(const Update& update, double learning_rate, double grad_scale, const Storage& work) const {
    State& state = *update.state;
    const Shape& whole = update.entry->value.shape;
    const Shape part{state.range.end - state.range.begin};
    const AnyTensor& grad = update.entry->grad;  // of the part alone, or of all
    const Index before = grad.size() == whole.size() ? state.range.begin : 0;
    const bool is_bfloat16 = detail::keeps_bfloat16(state.rule);
    ++state.steps;
    self().update(state.rule,
                  detail::ParameterStep<T>{
                      .shape = range_ ? part : whole,
                      .value = reinterpret_cast<T*>(update.value) + state.range.begin,
                      .grad = reinterpret_cast<const T*>(grad.data()) + before,
                      .state = update.tensors,
                      .is_bfloat16 = is_bfloat16,
                      .work = work ? work->data() : nullptr,
                      .steps = state.steps,
                      .learning_rate = learning_rate * state.rule.rate_scale,
                      .grad_scale = grad_scale,
                      .first = state.range.begin,
                      .chance = is_bfloat16 ? detail::Chance(update.entry->path, state.steps) : detail::Chance()});
  }

  std::shared_ptr<const ParameterRegistry> parameters_;
  Settings config_;
  std::function<detail::ElementRange(const ParameterEntry&)> range_{};  // without one: all of them
  std::map<std::string, State> states_;  // by path: the order of building layers does not matter
  double steps_ = 0;
  bool groups_are_checked_ = false;
};

/// @cond inside
template <class Self, class Settings, class Rule>
template <class>
void Optimizer<Self, Settings, Rule>::update_all(double learning_rate, double grad_scale) {
  check(learning_rate, grad_scale);
  check_groups();
  std::vector<Update> updates;
  for (const auto& entry : parameters_->entries())
    if (entry->has_grad) updates.push_back(prepared(*entry));
  const bool is_frozen = parameters_->count() > 0 && parameters_->trainable_count() == 0;
  require(!updates.empty(), Self::name, ": no parameter has a gradient; ",
          is_frozen ? "all are frozen, parameters.unfreeze those to train"
                    : "call tape.backward(loss) before step (in_backward leaves none: it has made its step)");
  std::size_t most = 0;
  for (const Update& update : updates)
    most = std::max(most, self().work_bytes(update.state->rule, update.entry->value));
  const Storage work = work_for(most);
  for (const Update& update : updates) apply(update, learning_rate, grad_scale, work);
  ++steps_;
}

template <class Self, class Settings, class Rule>
template <class>
StateDict Optimizer<Self, Settings, Rule>::saved_state() const {
  StateDict saved;
  saved.numbers["steps"] = steps_;
  for (const auto& [path, state] : states_) {
    saved.numbers[path + "/steps"] = state.steps;
    for (std::size_t i = 0; i < state.tensors.size(); ++i)
      if (state.tensors[i].storage) saved.tensors[path + "/" + Self::state_names[i]] = state.tensors[i];
  }
  return saved;
}

template <class Self, class Settings, class Rule>
template <class>
void Optimizer<Self, Settings, Rule>::load_state(const StateDict& saved) {
  std::map<std::string, State> states;
  std::size_t tensors = 0, numbers = 1;
  const auto number = [&](const std::string& name) {
    const auto found = saved.numbers.find(name);
    require(found != saved.numbers.end(), Self::name, ": the saved state has no \"", name, '"');
    return remat::detail::require_count(found->second, Self::name, name);
  };
  for (const auto& entry : parameters_->entries()) {
    if (saved.numbers.count(entry->path + "/steps") == 0) continue;  // had no gradient yet
    State state{self().rule_of(*entry), {}, number(entry->path + "/steps"), range_of(*entry)};
    ++numbers;
    const detail::StateShapes shapes = shapes_of(state.rule, *entry);
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      if (!shapes[i]) continue;
      const std::string name = entry->path + "/" + Self::state_names[i];
      const auto found = saved.tensors.find(name);
      require(found != saved.tensors.end(), Self::name, ": the saved state has no \"", name, '"');
      const AnyTensor& theirs = found->second;
      const DType dtype = state_dtype(state.rule, *entry);
      require(theirs.dtype == dtype && theirs.shape == *shapes[i], Self::name, ": the saved state has \"", name,
              "\" as ", name_of(theirs.dtype), theirs.shape, ", ", name_of(dtype), *shapes[i], " is needed");
      state.tensors[i] = theirs.shared();
      ++tensors;
    }
    states.emplace(entry->path, std::move(state));
  }
  require(tensors == saved.tensors.size() && numbers == saved.numbers.size(), Self::name, ": the saved state has ",
          saved.tensors.size(), " tensors and ", saved.numbers.size(), " numbers, of which ", tensors, " and ", numbers,
          " belong to parameters of this optimizer; it is of another model or optimizer");
  const double all_steps = number("steps");  // before anything changes
  steps_ = all_steps;
  states_ = std::move(states);
}
/// @endcond

}}}  // namespace remat::optim
