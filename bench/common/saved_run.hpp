// Runs that can be stopped and resumed: their flags, and what happens between two steps.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <remat/core/machine.hpp>
#include <remat/core/state_dict.hpp>
#include <remat/distributed/training_states.hpp>
#include <remat/io/chosen_products.hpp>
#include <remat/io/file_hash.hpp>
#include <remat/io/jsonl.hpp>
#include <remat/io/state_folder.hpp>
#include <remat/io/stop_signal.hpp>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "run_program.hpp"

namespace programs {

/// What a program returns that was told to stop, as a shell has it of one that Ctrl-C ended.
inline constexpr int stopped = 130;

inline std::string in_folder(const std::string& out, const std::string& file) {
  return (std::filesystem::path(out) / file).string();
}
inline void make_folder(const std::string& out) {
  std::error_code failure;
  std::filesystem::create_directories(out, failure);
  remat::require(!failure, "--out: folder ", out, " cannot be made: ", failure.message());
}

/// The log of a run that goes on from the step `from`, which the first rank writes; null on the others.
inline std::unique_ptr<const remat::io::JsonLines> open_log(const remat::distributed::Group& group,
                                                            const std::string& out, int from) {
  if (!group.is_first()) return nullptr;
  return std::unique_ptr<const remat::io::JsonLines>(
      new const auto(remat::io::JsonLines::before(in_folder(out, "train.jsonl"), "step", from)));
}

struct StateSettings {
  int save_every = 0, keep = 2;
  bool resume = false, stop_on_failed_save = false;
};

inline void add_state_options(CLI::App& app, StateSettings& s) {
  app.add_flag("--resume", s.resume, "go on from the newest whole state in --out, if there is one");
  app.add_option("--save-every", s.save_every, "steps between states; 0: about every 5 minutes")
      ->check(CLI::Range(0, 1 << 30));
  app.add_option("--keep", s.keep, "newest states that are kept, beside the best")->check(CLI::Range(1, 1 << 30));
  app.add_flag("--stop-on-failed-save", s.stop_on_failed_save, "else training goes on with a note");
}

/// Numbers that a run chose by itself and goes on with when it is resumed.
class ChosenNumbers {
 public:
  /// States may lack one that earlier versions did not choose: it stays as it is then.
  void add(const std::string& name, int& number, bool may_lack = false) {
    numbers_[name] = &number;
    if (may_lack) may_lack_.insert(name);
  }
  remat::StateDict state_dict() const {
    remat::StateDict state;
    for (const auto& [name, number] : numbers_) state.numbers[name] = *number;
    return state;
  }
  void load_state_dict(const remat::StateDict& state) {
    for (const auto& [name, number] : numbers_) {
      const auto found = state.numbers.find(name);
      if (found == state.numbers.end() && may_lack_.count(name) > 0) continue;
      remat::require(found != state.numbers.end(), "the saved state has no number \"", name, '"');
      remat::require(found->second >= 0 && found->second <= 1 << 30, "the saved state has \"", name, "\" as ",
                     found->second, ", which no run has chosen");
      *number = static_cast<int>(found->second);
    }
  }

 private:
  std::map<std::string, int*> numbers_;
  std::set<std::string> may_lack_;
};

/// What a run's results depend on: a run that is resumed must have the same.
struct RunFacts {
  std::map<std::string, std::string> files{};   // paths by what they are
  std::map<std::string, std::string> values{};  // that no flag says
  std::set<std::string> free_flags{};           // flags that change no bit; --steps and those of every run are known
};

/// Saves states in the folder `states` of a run's own folder, and resumes from them. While it lives, the first Ctrl-C
/// lets the step end and its state be saved. Of several ranks, all make the same calls, and the first one writes.
class SavedRun {
 public:
  using Tell = std::function<void(const std::string&)>;

  SavedRun(const StateSettings& s, const std::string& out, const remat::ParameterRegistry& parameters,
           bool in_background, const remat::distributed::Group& group = {})
      : s_(s),
        folder_(in_folder(out, "states")),
        group_(group),
        states_(group, parameters, {.folder = folder_, .keep = s.keep, .in_background = in_background}) {
    states_.add("chosen", chosen_);
    states_.may_differ("remat", remat::version());
    states_.add("products", products_);
    states_.may_differ("products", remat::io::ChosenProducts::backends());
    states_.may_differ("instructions", remat::machine::isa() + ", compiled for " + remat::machine::compiled_isa());
  }

  /// The log is on the disk before a state is: it has a line of each step behind that. It outlives this.
  void keep_log(const std::unique_ptr<const remat::io::JsonLines>& log) { log_ = log.get(); }
  /// Goes on as it was chosen when the run began.
  void keep_number(const std::string& name, int& number, bool may_lack = false) { chosen_.add(name, number, may_lack); }
  /// Where it differs from that of the run's beginning, bits may differ from there on: a note says so.
  void may_differ(const std::string& what, const std::string& value) { states_.may_differ(what, value); }

  /// How many steps are behind the run, which then has its state again, and `steps` as many in all as when it began; 0
  /// where it begins, which puts states of another run aside. An `Error` names a fact that is another now.
  template <class Optimizer>
  int begin(const CLI::App& app, const std::string& name, Optimizer& optimizer, int& steps, const RunFacts& facts) {
    states_.add(name, optimizer);
    for (const auto& [what, path] : facts.files) {
      const std::string hash = remat::io::hash_of_file(path);
      group_.require_equal(what, hash);
      states_.must_equal(what, hash);
    }
    for (const auto& [what, value] : facts.values) states_.must_equal(what, value);
    must_be_flags(app, facts.free_flags);
    const int asked = app.count("--steps") > 0 ? app.get_option("--steps")->as<int>() : 0;
    keep_number("steps", steps);
    const int first = begin();
    remat::require(first == 0 || asked == 0 || asked == steps, "--steps ", asked, " is not that of the run, which has ",
                   steps, "; leave it out to resume");
    return first;
  }

  /// Behind each step, `done` of `all`: saves when it is time. True when the run was told to stop.
  bool is_stopped(int done, int all, const Tell& tell, std::optional<double> held_out_loss = {}) {
    const bool is_stop = group_.sum(stop_.received() ? 1 : 0) > 0 && done < all;
    const bool is_due = s_.save_every > 0 ? done % s_.save_every == 0
                                          : group_.broadcast(Clock::now() - last_save_ > std::chrono::minutes(5));
    if (is_stop || is_due || done == all) save(done, held_out_loss, is_stop || done == all, tell);
    if (is_stop && group_.is_first())
      tell("stopped after step " + std::to_string(done) + " of " + std::to_string(all) +
           "; the same command with --resume goes on");
    return is_stop;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void must_be_flags(const CLI::App& app, std::set<std::string> free) {
    free.insert(
        {"help", "resume", "save-every", "keep", "stop-on-failed-save", "out", "threads", "data", "model", "steps"});
    for (const CLI::Option* option : app.get_options()) {
      const std::string name = option->get_single_name();
      if (free.count(name) > 0) continue;
      std::string value;
      for (const std::string& each : option->results()) value += (value.empty() ? "" : " ") + each;
      states_.must_equal("--" + name, option->count() > 0 ? value : option->get_default_str());
    }
  }
  int begin() {
    last_save_ = Clock::now();
    if (!s_.resume) {
      if (group_.is_first()) put_aside();
      return 0;
    }
    const auto resumed = states_.resume();
    if (!resumed) {
      std::cout << "nothing to resume in " << folder_ << " yet: begins anew" << std::endl;
      return 0;
    }
    for (const std::string& note : resumed->notes) std::cout << "note: " << note << '\n';
    std::cout << "goes on from " << resumed->folder << std::endl;
    return static_cast<int>(resumed->step);
  }
  void save(int done, std::optional<double> loss, bool is_last, const Tell& tell) try {
    last_save_ = Clock::now();
    sync_log();
    states_.save(done, loss);
    if (is_last) states_.wait();
  } catch (const remat::Error& error) {
    if (s_.stop_on_failed_save || is_last) throw;
    if (group_.is_first()) tell(std::string("not saved, training goes on: ") + error.what());
  }
  /// All ranks learn of it where the first one cannot: they would wait for it in the save.
  void sync_log() const {
    std::string failure;
    if (log_ != nullptr) try {
        log_->sync();
      } catch (const remat::Error& error) {
        failure = error.what();
      }
    failure = group_.broadcast(std::move(failure));
    remat::require(failure.empty(), failure);
  }
  /// Not in the place of a run that went further: two starts without --resume would cost it.
  void put_aside() const {
    std::error_code failure;
    if (!std::filesystem::exists(folder_, failure)) return;
    std::string aside = folder_ + ".before";
    for (int n = 2; newest(aside) > newest(folder_); ++n) aside = folder_ + ".before-" + std::to_string(n);
    std::filesystem::remove_all(aside, failure);
    std::filesystem::rename(folder_, aside, failure);
    remat::require(!failure, folder_, ": cannot be renamed: ", failure.message());
    std::cout << "states of an earlier run are in " << aside << " now; --resume would have gone on from them"
              << std::endl;
  }
  /// The last step of which `folder` has a state; -1 where there is none.
  static remat::Index newest(const std::string& folder) {
    const remat::io::detail::StateFolder states(folder);
    for (const remat::Index step : states.steps())
      if (states.is_written(step)) return step;
    return -1;
  }

  StateSettings s_;
  std::string folder_;
  remat::distributed::Group group_;
  const remat::io::JsonLines* log_ = nullptr;
  remat::io::ChosenProducts products_;
  ChosenNumbers chosen_;
  remat::distributed::TrainingStates states_;
  remat::io::StopSignal stop_;
  Clock::time_point last_save_ = Clock::now();
};

}  // namespace programs
