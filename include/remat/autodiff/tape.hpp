// Tape: one step of a program, recorded, and its backward.
#pragma once

#include <remat/autodiff/backward.hpp>
#include <remat/autodiff/memory_report.hpp>
#include <remat/autodiff/region_results.hpp>
#include <remat/autodiff/regions.hpp>
#include <remat/autodiff/var.hpp>
#include <remat/core/sequence_ring.hpp>
#include <string_view>
#include <tuple>
#include <utility>

namespace remat { inline namespace REMAT_ABI {

/// What a `Tape` records for, and what it notes beside.
struct TapeOptions {
  std::uint64_t seed = 0;       // of dropout, with `step`
  std::optional<Index> step{};  // in [0, 2^32); a random op recorded in Mode::train needs one
  /// For a batch in parts: this one begins at row `first_row` of the step's batch and has `rows` rows. Its masks are
  /// those that the whole batch has there, for values whose first axis is that of rows, or rows and what lies inside
  /// them ([B T, D]). Other values, and `next_random`, draw what no other part draws.
  Index first_row = 0, rows = 0;
  /// For a sequence in parts, one a rank (see distributed/context_parallel.hpp): attention then is over the whole
  /// sequence, by ring attention, positions are those in the whole, and so are the masks of values [B, T, ...]. Other
  /// values, and `next_random`, draw what no other rank draws. Null: the sequence is whole.
  std::shared_ptr<SequenceRing> ring{};
  Mode mode = Mode::train;          // train, evaluate or plan
  std::string offload_directory{};  // where values go that a policy offloads; empty: the system's temporary folder
  bool verify = false;    // run every op twice and compare bits, in replays too; an Error names the first that differs
  bool trace = false;     // note when each op ran, see io/trace.hpp
  bool timeline = false;  // note every allocation and release, see Tape::memory_timeline
  bool find_nan = false;  // an Error names the op and layer of the first NaN; also by REMAT_FIND_NAN in the environment
};

/// What is asked of an input.
struct InputOptions {
  bool wants_gradient = false;  // `tape.grad(x)` will be asked for, after backward
};

namespace detail {
inline constexpr Index max_rows = Index{1} << 29;  // of a step's batch, see ops::first_in_batch

/// The empty program of a tape.
template <class = void>
Counted<Program> begin_program(const TapeOptions& options) {
  Counted<Program> program(new Program);
  program->mode = options.mode;
  program->seed = options.seed;
  const Index step = options.step.value_or(0);
  require(step >= 0 && step <= 0xFFFFFFFF, "tape: step ", step, " is not in [0, 2^32)");
  require(options.first_row >= 0 && options.first_row < detail::max_rows && options.rows >= 0, "tape: first_row ",
          options.first_row, " is not in [0, ", detail::max_rows, ") or rows ", options.rows, " is negative");
  require(options.first_row == 0 || options.rows > 0, "tape: first_row is ", options.first_row, " and rows is 0; ",
          "a part of a batch needs both, {.first_row = part.first_row, .rows = part.inputs.shape()[0]}");
  program->step = static_cast<std::uint32_t>(step);
  program->has_step = options.step.has_value();
  program->part = {options.first_row, options.rows};
  if (options.ring != nullptr && options.ring->size() > 1) program->ring = options.ring;
  program->offload_directory = options.offload_directory;
  program->tracing = options.trace;
  if (options.timeline) program->account->with_log([](MemoryLog& log) { log.keep_all(); });
  program->verify = options.verify && options.mode == Mode::train;
  program->find_nan = options.find_nan || detail::find_nan_by_environment();
  return program;
}
}  // namespace detail

/// Records ops, then runs their backward once. Not copyable; Vars may outlive it but not be read any more.
///
///     Tape tape({.seed = 1, .step = step});
///     const Var<float> loss = model.loss(tape, batch);
///     tape.backward(loss);  // adds into the gradient of each parameter
class Tape {
 public:
  /// An empty tape; an `Error` for a step or rows out of range.
  explicit Tape(const TapeOptions& options = {}) : program_(detail::begin_program(options)) { program_->tape = this; }
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  ~Tape() { program_->end(); }

  /// Train, evaluate or plan, as its options say.
  Mode mode() const { return program_->mode; }
  /// False in evaluate mode, where nothing is dropped and nothing kept for backward.
  bool is_training() const { return mode() != Mode::evaluate; }

  /// Brings a tensor onto the tape; shares its bytes, unless a span of `Tensor::write` may still change them.
  template <class T>
  Var<T> input(Tensor<T> tensor, const InputOptions& options = {}) {
    const bool wants = options.wants_gradient && mode() != Mode::evaluate;
    const Shape shape = tensor.shape();
    return Var<T>(program_, {program_->add_leaf(std::move(tensor).any(), wants), 0, shape});
  }
  /// A parameter as a Var, for ops that take only Vars.
  template <class T>
  Var<T> parameter(const Parameter<T>& parameter) {
    const Shape& shape = parameter.shape();  // an Error where no scope has made it
    return Var<T>(program_, {program_->parameter_slot(parameter.entry(), dtype_of<T>()), 0, shape});
  }

  /// Runs `fn()` once, as a region: of what it makes, `policy` chooses what stays for backward, the rest is recomputed
  /// from recorded ops. Only the Vars that `fn` returns may be used afterwards. Regions nest.
  template <class Fn>
  auto checkpoint(const Policy& policy, Fn&& fn) {
    detail::open_region(*program_, policy);
    std::vector<SlotId> returned;
    auto result = [&] {
      try {
        auto made = detail::results_of(std::forward<Fn>(fn));
        returned = returned_by(made, "checkpoint");
        detail::refuse_kept(*program_, returned);
        return made;
      } catch (...) {
        try {
          detail::close_region(*program_, {});
        } catch (...) {  // the first error is the one to see
        }
        throw;
      }
    }();
    detail::close_region(*program_, returned);
    return result;
  }

  /// `checkpoint`, or under a policy that keeps everything a `plannable_region`: what layers open around themselves.
  template <class Fn>
  auto region(const Policy& policy, Fn&& fn) {
    return policy.keeps_everything() ? plannable_region(std::forward<Fn>(fn))
                                     : checkpoint(policy, std::forward<Fn>(fn));
  }

  /// Runs `fn()` without a region, where a plan may put one.
  template <class Fn>
  auto plannable_region(Fn&& fn) {
    if (mode() != Mode::plan || !program_->open_regions.empty()) {
      auto result = detail::results_of(std::forward<Fn>(fn));
      returned_by(result, "plannable_region");
      return result;
    }
    const auto id = static_cast<std::int32_t>(program_->plannable_regions.size());
    program_->plannable_regions.push_back({.slot_begin = static_cast<SlotId>(program_->slots.size())});
    program_->note(Event::Kind::open_plannable, id);
    const auto close = [&](std::vector<SlotId> returned) {
      PlannableRegion& region = program_->plannable_regions[static_cast<std::size_t>(id)];
      region.slot_end = static_cast<SlotId>(program_->slots.size());
      region.returned = std::move(returned);
      program_->note(Event::Kind::close_plannable, id);
    };
    try {
      auto result = detail::results_of(std::forward<Fn>(fn));
      close(returned_by(result, "plannable_region"));
      return result;
    } catch (...) {
      close({});
      throw;
    }
  }

  /// Adds the gradient of the scalar `loss` into every parameter it depends on. Ends the recording. `when_complete` is
  /// called for each of these parameters as soon as nothing here needs it any more: `adamw.in_backward(rate)`.
  template <class T>
  void backward(const Var<T>& loss, const GradientHook& when_complete = {}) {
    require(mode() != Mode::evaluate, "backward: a tape in evaluate mode keeps nothing; record with Mode::train");
    require(!program_->finished, "backward: this tape has run backward already; record the step on a new tape");
    require(program_->open_regions.empty(), "backward: a checkpoint region is still open");
    require(&loss.program() == program_.get(), "backward: the loss lies on another tape");
    require(loss.shape().size() == 1, "backward: the loss must be one number, its shape is ", loss.shape());
    const Slot& slot = program_->slot(loss.where().slot);
    require(slot.spec.shape.size() == 1, "backward: the loss is a slice; sum it first");
    require(!loss.where().stops_gradient, "backward: the loss is read through stop_gradient");
    require(slot.wants_gradient && !slot.is_leaf(),
            "backward: the loss depends on no parameter and no input that wants a gradient", frozen_note());
    program_->rethrow();
    detail::check_names(*program_);
    detail::run_backward(*program_, loss.where().slot, when_complete);
    program_->release_parameters();
  }

  /// The gradient of an input that asked for it, or zeros if the loss does not depend on it; after backward.
  template <class T>
  Tensor<T> grad(const Var<T>& input) const {
    require(&input.program() == program_.get(), "grad: the input lies on another tape");
    const Slot& s = program_->slot(input.where().slot);
    require(program_->finished, "grad: call backward first");
    require(s.is_leaf() && s.wants_gradient,
            "grad: only inputs made with {.wants_gradient = true} keep a gradient, and parameters that are not frozen");
    require(program_->computes(), "grad: a tape in plan mode has no values to read");
    if (s.parameter >= 0) {
      ParameterEntry& entry = *program_->parameters[static_cast<std::size_t>(s.parameter)];
      const auto use = entry.used(ParameterUse::train);
      AnyTensor grad = entry.grad_or_zeros();
      grad.shape = input.shape();
      grad.offset += input.where().offset;
      return Tensor<T>(grad);
    }
    if (!s.grad) return Tensor<T>(input.shape(), T{0});
    return Tensor<T>(AnyTensor{s.spec.dtype, input.shape(), s.grad, input.where().offset});
  }
  /// Keeps the value readable after backward.
  template <class T>
  void keep(const Var<T>& x) {
    require(&x.program() == program_.get(), "keep: the value lies on another tape");
    require(!program_->slot(x.where().slot).sealed, "keep: made inside a checkpoint region that did not return it");
    if (mode() == Mode::evaluate) return;  // there is no backward, and its Vars keep it
    Slot& slot = program_->slot(x.where().slot);
    if (!std::exchange(slot.keep, true)) program_->kept.push_back(x.where().slot);
    program_->note(Event::Kind::keep, x.where().slot);
  }

  /// What the step did and held until now; all of it after backward.
  template <class = void>
  TapeStats stats() const;

  /// Live bytes by class over time, if the tape was made with `.timeline = true`; after backward.
  std::vector<MemorySample> memory_timeline() const { return remat::memory_timeline(*program_); }

  /// What ran when, in order, if the tape was made with `.trace = true`; io/trace.hpp writes it to a file.
  const std::vector<TraceSlice>& trace() const { return program_->trace; }

  /// A stream of random words for the next random op, another in each part of a batch. Replays use the op's own, so
  /// user code runs only once. An `Error` that names `op` on a tape in train mode that was given no step.
  RandomStream next_random(const char* op = "a random op") {
    RandomStream stream = next_random_of_batch(op);
    stream.seed ^= static_cast<std::uint64_t>(program_->part.first_row) * 0x9E3779B97F4A7C15ULL ^ rank_seed();
    return stream;
  }
  /// The same stream in all parts of a batch, for an op that counts its elements from `part().first_row` on.
  template <class = void>
  RandomStream next_random_of_batch(const char* op);

  /// The rows of the step's batch that this tape works on.
  const BatchPart& part() const { return program_->part; }
  /// The ranks that this tape's sequences are cut among; null where they are whole.
  const std::shared_ptr<SequenceRing>& ring() const { return program_->ring; }
  /// The same as `TapeOptions::ring`, before the first op: for the step of a plan, whose tape is made for it.
  void set_ring(std::shared_ptr<SequenceRing> ring) {
    require(program_->node_count() == 0, "tape: set_ring comes before the first op that is recorded");
    program_->ring = ring != nullptr && ring->size() > 1 ? std::move(ring) : nullptr;
  }
  /// What makes a stream of random words another one on each rank of the ring; 0 without one.
  std::uint64_t rank_seed() const {
    return ring() == nullptr ? 0 : static_cast<std::uint64_t>(ring()->rank()) * 0xD1B54A32D192ED03ULL;
  }
  /// While the guard lives, values are not laid out by rows of the batch (tokens sorted by expert, say): in a part of a
  /// batch random ops then draw from a stream of its own, whatever their first axis is.
  class RegroupGuard {
   public:
    /// See `regrouped`.
    explicit RegroupGuard(Program& program)
        : part_(program.part), before_(std::exchange(program.part.is_regrouped, true)) {}
    RegroupGuard(const RegroupGuard&) = delete;
    RegroupGuard& operator=(const RegroupGuard&) = delete;
    ~RegroupGuard() { part_.is_regrouped = before_; }

   private:
    BatchPart& part_;
    bool before_;
  };
  /// Makes that guard: `const auto regrouped = tape.regrouped();`.
  RegroupGuard regrouped() { return RegroupGuard(*program_); }

  /// The part of a sequence that ops recorded now work on, inside `blockwise`: random ops count from there.
  const std::optional<ChunkPlace>& chunk() const { return program_->chunk; }

  /// While the guard lives, ops belong to the layer `path`, in policies, errors and reports.
  class LayerGuard {
   public:
    /// See `layer`.
    LayerGuard(Program& program, std::string_view path) : program_(program), before_(program.path) {
      if (program.paths[static_cast<std::size_t>(before_)] != path) program.path = program.path_id(path);
    }
    LayerGuard(const LayerGuard&) = delete;
    LayerGuard& operator=(const LayerGuard&) = delete;
    ~LayerGuard() { program_.path = before_; }

   private:
    Program& program_;
    std::int32_t before_;
  };
  /// Makes that guard, as layers do first: `const auto here = tape.layer(path);`.
  LayerGuard layer(std::string_view path) { return {*program_, path}; }

  ///@{
  /// What was recorded, for the engine and for plans.
  Program& program() { return *program_; }
  const Program& program() const { return *program_; }
  ///@}

 private:
  /// Why there may be none to differentiate by.
  template <class = void>
  std::string frozen_note() const;
  /// The slots of the Vars in what a region's function gave; an `Error` where one was never set or lies elsewhere.
  template <class Made>
  std::vector<SlotId> returned_by(const Made& made, const char* what) const {
    std::vector<SlotId> slots;
    detail::for_each_var(made, [&](const AnyVar& var) {
      require(static_cast<bool>(var), what, ": the function returns a Var that was never given a value");
      require(var.shared_program().get() == program_.get(), what, ": the function returns a Var of another tape");
      slots.push_back(var.where().slot);
    });
    return slots;
  }

  Counted<Program> program_;
};

template <class>
RandomStream Tape::next_random_of_batch(const char* op) {
  require(
      mode() != Mode::train || program_->has_step, op, detail::in_layer(*program_, program_->path),
      ": this tape was given no step, so every step would draw the same masks: Tape tape({.seed = 1, .step = step})");
  return {program_->seed, program_->step, program_->next_site++};
}

template <class>
std::string Tape::frozen_note() const {
  Index frozen = 0;
  for (const auto& [entry, slots] : program_->parameter_slots) frozen += slots.wants_gradient ? 0 : 1;
  if (frozen == 0) return "";
  return " (" + std::to_string(frozen) + " of the step's parameters are frozen; parameters.unfreeze some)";
}

template <class>
TapeStats Tape::stats() const {
  TapeStats stats = program_->stats;
  stats.peak_bytes = program_->account->peak_bytes;
  stats.at_peak = detail::peak_blocks(*program_);
  return stats;
}

}}  // namespace remat
