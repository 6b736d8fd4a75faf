// The state of a training on the disk: a run that goes on from it ends with the bits of one that was never stopped.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <remat/core/state_dict.hpp>
#include <remat/io/safetensors.hpp>
#include <remat/io/state_folder.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// How `TrainingStates` keeps states.
struct TrainingStatesConfig {
  std::string folder{};       // made at the first save; each state is a folder in it, "step-" and its number
  int keep = 2;               // the newest so many; older ones go when a newer one is complete
  bool keep_best = true;      // and that of the least loss that was told
  bool in_background = true;  // written by a thread of its own; what training changes meanwhile is copied first
};

/// What `TrainingStates::resume` found.
struct Resumed {
  Index step = 0;                    // as it was saved
  std::string folder{};              // of the state
  std::vector<std::string> notes{};  // states that were passed over and why; facts under which bits may differ
};

/// Saves and resumes all that training goes on from: parameters (shared ones once), gradients that are accumulated so
/// far, and what is added: optimizers, averages. Masks of dropout and batches are functions of (seed, step) here, so
/// that the step stands for them.
///
/// A state is `model.safetensors`, the parameters that are trained, which `load_safetensors` reads; `rest.safetensors`;
/// and `manifest.json`, written last, with sizes and XXH3-128 of both: whenever the program or the machine ends,
/// complete states stay so. Frozen parameters are not written but compared, by hash, with those at hand; matrices that
/// stay in their files are left to `must_equal`. Needs libxxhash.
class TrainingStates {
 public:
  /// Of all parameters of the registry.
  TrainingStates(const ParameterRegistry& parameters, TrainingStatesConfig config)
      : parameters_(parameters.handle()), config_(std::move(config)), folder_(config_.folder) {
    require(!config_.folder.empty(), "training states: a folder is needed");
    require(config_.keep >= 1, "training states: keep is ", config_.keep, ", must be at least 1");
  }
  TrainingStates(const TrainingStates&) = delete;
  TrainingStates& operator=(const TrainingStates&) = delete;
  /// Waits for what is being written; `wait` tells its errors, this does not.
  ~TrainingStates() {
    if (writer_.joinable()) writer_.join();
  }

  /// A part with `StateDict state_dict() const` and `load_state_dict(const StateDict&)`, which outlives this. `name` is
  /// that of its tensors in the file.
  template <class Part>
  void add(const std::string& name, Part& part) {
    require(!name.empty() && name != gradients && name != numbers && name.find('/') == std::string::npos &&
                parts_.count(name) == 0,
            "training states: \"", name, "\" cannot be the name of a part, or is that of one already");
    parts_[name] = {[&part] { return part.state_dict(); },
                    [&part](const StateDict& state) { part.load_state_dict(state); }};
  }
  /// A fact that a state shares with the run that resumes it: data, model, seed. Another is an `Error`.
  void must_equal(const std::string& fact, const std::string& value) { facts_.must[fact] = value; }
  /// A fact under another of which bits may differ: processor, choice of products. Another is noted.
  void may_differ(const std::string& fact, const std::string& value) { facts_.may[fact] = value; }

  /// The state behind `step` steps, as it is now. `loss` is what the best is chosen by, the held-out one. In the
  /// background, errors are those of the next `save` or `wait`; states that were complete stay so.
  void save(Index step, std::optional<double> loss = {}) {
    require(step >= 0 && step < last_step, "training states: step ", step, " is not in [0, ", last_step, ")");
    wait();
    Snapshot state = snapshot(step, loss);
    if (!config_.in_background) return write(state);
    writer_ = std::thread([this, state = std::move(state)]() mutable {
      try {
        write(state);
      } catch (...) {
        failure_ = std::current_exception();
      }
      state = {};  // what training shares with it
    });
  }
  /// Until the last state is complete; an `Error` when it could not be written.
  void wait() {
    if (writer_.joinable()) writer_.join();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  /// Loads the newest complete state; empty when none was ever written to its end. An `Error` where all that were are
  /// damaged, or the newest whole one is of another model, other data or the like, which names the difference; nothing
  /// is loaded then.
  std::optional<Resumed> resume() {
    wait();
    Resumed found;
    bool is_damaged = false;
    for (const Index step : folder_.steps()) {
      std::optional<detail::StateManifest> state;
      try {
        state = folder_.read(step);
      } catch (const Error& incomplete) {
        found.notes.push_back(std::string("passed over: ") + incomplete.what());
        is_damaged = is_damaged || folder_.is_written(step);
        continue;
      }
      found.step = step, found.folder = folder_.of(step);
      compare(*state, found);
      load(found.folder);
      folder_.remove_others(step, config_.keep, config_.keep_best);  // what a save left that did not come to its end
      return found;
    }
    require(!is_damaged, config_.folder, ": has no complete state; ", found.notes.empty() ? "" : found.notes[0]);
    return {};
  }

 private:
  static constexpr Index last_step = 100'000'000'000'000;  // folders with longer numbers are not looked for
  // What names in the file of what is no parameter begin with, beside those of the parts.
  static constexpr const char *gradients = "gradients", *numbers = "numbers";

  struct Part {
    std::function<StateDict()> state;
    std::function<void(const StateDict&)> load;
  };
  struct Snapshot {
    detail::StateManifest manifest{};
    std::vector<SafetensorsOutput> model{}, rest{};
    std::map<std::string, std::string> aliases{};
  };

  Snapshot snapshot(Index step, std::optional<double> loss) const;
  void write(const Snapshot& state);
  void compare(const detail::StateManifest& saved, Resumed& found) const;
  void load(const std::string& folder);
  std::string frozen_hash() const;

  std::shared_ptr<const ParameterRegistry> parameters_;
  TrainingStatesConfig config_;
  detail::StateFolder folder_;
  detail::StateManifest facts_{};
  std::map<std::string, Part> parts_{};
  std::thread writer_{};
  std::exception_ptr failure_{};
};

inline std::string TrainingStates::frozen_hash() const {
  FileHash hash;
  for (const auto& entry : parameters_->entries()) {
    if (!entry->is_frozen || entry->matrix || !entry->value.storage) continue;
    const auto use = entry->used(ParameterUse::read);
    hash.add(entry->path.data(), entry->path.size() + 1);
    hash.add(entry->value.data(), entry->value.bytes());
  }
  return hash.text();
}

inline TrainingStates::Snapshot TrainingStates::snapshot(Index step, std::optional<double> loss) const {
  const auto output = [](std::string name, AnyTensor value) {
    return SafetensorsOutput{std::move(name), value.dtype, value.shape, [value] { return value; }};
  };
  Snapshot made{facts_};
  made.manifest.step = step, made.manifest.loss = loss, made.manifest.frozen = frozen_hash();
  for (const auto& entry : parameters_->entries()) {
    const auto use = entry->used(ParameterUse::read);
    if (entry->has_grad) made.rest.push_back(output(std::string(gradients) + "/" + entry->path, entry->grad.shared()));
    if (entry->is_frozen) continue;
    made.model.push_back(output(entry->path, entry->value.shared()));
    for (const std::string& user : entry->users)
      if (user != entry->path) made.aliases[user] = entry->path;
  }
  for (const auto& [name, part] : parts_) {
    const StateDict state = part.state();
    for (const auto& [key, tensor] : state.tensors) made.rest.push_back(output(name + "/" + key, tensor.shared()));
    for (const auto& [key, number] : state.numbers)
      made.rest.push_back(
          output(std::string(numbers) + "/" + name + "/" + key, Tensor<double>(Shape{}, {number}).any()));
  }
  return made;
}

inline void TrainingStates::write(const Snapshot& state) {
  try {
    folder_.write(state.manifest,
                  {{"model.safetensors", [&](const auto& path) { save_safetensors(state.model, path, state.aliases); }},
                   {"rest.safetensors", [&](const auto& path) { save_safetensors(state.rest, path); }}});
    folder_.remove_others(state.manifest.step, config_.keep, config_.keep_best);
  } catch (const Error& error) {
    std::size_t bytes = 0;
    for (const auto* tensors : {&state.model, &state.rest})
      for (const SafetensorsOutput& tensor : *tensors)
        bytes += checked_bytes(tensor.shape.size(), size_of(tensor.dtype));
    fail(error.what(), "; the state of step ", state.manifest.step, " needs ", bytes, " bytes in ", config_.folder,
         ", those before it are whole");
  }
}

inline void TrainingStates::compare(const detail::StateManifest& saved, Resumed& found) const {
  using Facts = std::map<std::string, std::string>;
  const auto each_difference = [](const Facts& then, const Facts& now, const auto& tell) {
    Facts all = then;
    all.insert(now.begin(), now.end());
    for (const auto& known : all) {
      const auto value = [&](const Facts& facts) {
        const auto fact = facts.find(known.first);
        return fact != facts.end() ? fact->second : std::string("not told");
      };
      if (value(then) != value(now)) tell(known.first + " was " + value(then) + " and is " + value(now) + " now");
    }
  };
  each_difference(saved.must, facts_.must, [&](const std::string& difference) {
    fail(found.folder, ": ", difference, "; go on with the same, or begin anew in another folder");
  });
  require(saved.frozen == frozen_hash(), found.folder,
          ": the frozen parameters are not those that it was saved beside; load the same model and freeze the same");
  each_difference(saved.may, facts_.may, [&](const std::string& difference) {
    found.notes.push_back(difference + ": bits may differ from here on");
  });
}

inline void TrainingStates::load(const std::string& folder) {
  const SafetensorsFile model(folder + "/model.safetensors"), rest(folder + "/rest.safetensors");
  const auto like = [](const SafetensorsFile& file, const std::string& name, const ParameterEntry& entry) {
    AnyTensor value = file.read(name, entry.value.dtype);
    require(value.shape == entry.value.shape, file.path(), ": \"", name, "\" has shape ", value.shape, ", ", entry.path,
            " has ", entry.value.shape);
    return value;
  };
  // All that can be refused comes before the first change.
  struct Loaded {
    std::shared_ptr<ParameterEntry> entry;
    AnyTensor value, gradient;
  };
  std::vector<Loaded> loaded;
  std::vector<std::string> paths;
  for (const auto& entry : parameters_->entries()) {
    loaded.push_back({entry, {}, {}});
    if (const std::string name = std::string(gradients) + "/" + entry->path; rest.tensors().count(name) > 0)
      loaded.back().gradient = like(rest, name, *entry);
    if (entry->is_frozen) continue;
    loaded.back().value = like(model, entry->path, *entry);
    paths.push_back(entry->path);
  }
  for (const auto& [name, info] : model.tensors())
    require(std::binary_search(paths.begin(), paths.end(), name), model.path(), ": holds \"", name,
            "\", which is not trained here", SafetensorsFile::near(name, paths));
  std::map<std::string, StateDict> states;
  for (const auto& [name, part] : parts_) states[name];
  const auto cut = [](std::string& name) {  // what its first slash ends
    std::string first = name.substr(0, name.find('/'));
    name.erase(0, first.size() + 1);
    return first;
  };
  for (const auto& [name, info] : rest.tensors()) {
    std::string key = name, part = cut(key);
    if (part == gradients) continue;
    const bool is_number = part == numbers;
    if (is_number) part = cut(key);
    require(states.count(part) > 0, rest.path(), ": holds \"", name, "\", but this run has no part \"", part, '"');
    if (is_number)
      states[part].numbers[key] = rest.read<double>(name).item();
    else
      states[part].tensors.emplace(key, rest.read(name));
  }
  for (const auto& [name, part] : parts_) part.load(states[name]);
  for (Loaded& each : loaded) {
    const auto use = each.entry->used(ParameterUse::write);
    if (!each.entry->is_frozen) each.entry->value = std::move(each.value);
    each.entry->cast = {}, each.entry->cast_from = {};
    each.entry->zero_grad();
    if (!each.gradient.storage) continue;
    each.entry->grad = std::move(each.gradient);
    each.entry->has_grad = true;
  }
}

}}}  // namespace remat::io
