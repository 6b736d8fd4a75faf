// Random programs for the engine: a list of steps over a growing pool of Vars, with nested regions, and how to run it.
#pragma once

#include <rapidcheck.h>

#include <map>
#include <memory>
#include <ostream>
#include <remat/remat.hpp>
#include <string>
#include <vector>

namespace remat_test {

/// What a step does with Vars that it picks from the pool. In order of simplicity: rapidcheck shrinks to the front.
enum class Kind {
  sin,
  add,
  square,
  tanh,
  exp,
  subtract,
  multiply,
  copy,
  close,
  open,
  label,
  keep,
  forget,
  input,
  scale,
  slice,
  reshape,
  view_of_parameter,
  sum,
  mean,
  concat,
  softmax,
  layer_norm,
  linear,
  matmul,
  dropout
};
inline constexpr const char* kind_names[] = {
    "sin",  "add",   "square", "tanh",    "exp",        "subtract", "multiply", "copy",    "close",
    "open", "label", "keep",   "forget",  "input",      "scale",    "slice",    "reshape", "view_of_parameter",
    "sum",  "mean",  "concat", "softmax", "layer_norm", "linear",   "matmul",   "dropout"};

/// `a` and `b` pick operands (counted from the newest Var), `c` a variant. Of a region, `a` and `b` pick the policy and
/// `c` what it returns.
struct Step {
  Kind kind = Kind::sin;
  int a = 0, b = 0, c = 0;
};

/// `close` without an open region is ignored, and what is open at the end is closed: each part of a program is a
/// program.
struct RandomProgram {
  std::vector<Step> steps{};
  int loss = 0;                  // which surviving Vars it sums, and whether in a region
  bool gradients_exist = false;  // parameters have a gradient already, as from an earlier micro-batch
  bool locals_live = false;      // the step's Vars live on while backward runs
  bool peeks = false;            // asks for saved_residuals before backward
};

inline std::ostream& operator<<(std::ostream& out, const RandomProgram& program) {
  out << "\n";
  for (const Step& s : program.steps)
    out << "  {Kind::" << kind_names[static_cast<int>(s.kind)] << ", " << s.a << ", " << s.b << ", " << s.c << "},\n";
  return out << "  loss " << program.loss << (program.gradients_exist ? ", gradients exist" : "")
             << (program.locals_live ? ", locals live" : "") << (program.peeks ? ", peeks" : "") << '\n';
}

/// What the steps work with, the same for every run of a program.
struct World {
  remat::ParameterRegistry registry{17};
  remat::Parameter<double> w, bias, scale;
  remat::Tensor<double> x, y, constant;

  /// `shift` is added to every input and parameter.
  explicit World(bool gradients_exist, double shift = 0) {
    const remat::Scope scope = registry / "p";
    w = scope.parameter<double>("w", {4, 4}, remat::init::normal(0.5));
    bias = scope.parameter<double>("bias", {4}, remat::init::normal(0.5));
    scale = scope.parameter<double>("scale", {4}, remat::init::normal(1));
    for (const auto& entry : registry.entries()) {
      entry->grad_or_zeros();  // its bytes are there before the step, so that steps can be compared
      entry->has_grad = gradients_exist;
    }
    // A part of a larger tensor: leaves may begin anywhere in their bytes.
    x = numbers({5, 4}, 1, shift).slice(1, 4);
    y = numbers({3, 4}, 2, shift);
    constant = numbers({3, 4}, 3, 0);
    if (shift == 0) return;
    for (const remat::Parameter<double>& p : {w, bias, scale}) {
      remat::Tensor<double> value = p.value().copy();
      for (double& v : value.write()) v += shift;
      p.set_value(value);
    }
  }
  static remat::Tensor<double> numbers(const remat::Shape& shape, std::uint32_t site, double shift) {
    remat::Tensor<double> made(shape);
    for (remat::Index i = 0; i < made.size(); ++i)
      made.write()[i] = 2 * remat::RandomStream{23, 0, site}.uniform(static_cast<std::uint64_t>(i)) - 1 + shift;
    return made;
  }
};

/// What becomes of a program's regions: as written; no regions, their functions just run; or another policy for each
/// outermost region, or for all.
struct Regions {
  enum class Are { as_written, absent, outermost_replaced, all_replaced } are = Are::as_written;
  remat::Policy policy{};
};

/// Runs a program on a tape.
class Interpreter {
 public:
  using V = remat::Var<double>;

  Interpreter(remat::Tape& tape, const RandomProgram& program, const World& world, const Regions& regions = {})
      : tape_(tape), program_(program), world_(world), regions_(regions) {
    inputs_ = {tape.input(world.x, {.wants_gradient = true}), tape.input(world.y, {.wants_gradient = true})};
    pool_ = {inputs_[0], tape.input(world.constant), inputs_[1]};
    for (const Step& step : program.steps)
      if (step.kind == Kind::label) labels_.push_back(label(step));
  }

  /// Runs the steps and sums up the loss.
  V loss() {
    while (at_ < program_.steps.size()) steps();  // a `close` outside all regions ends steps() early
    const auto total = [this] {
      V sum_of_all = sum(pick(0) * inputs_[0]);  // so that there is a gradient
      for (std::size_t i = 3; i < pool_.size(); ++i)
        if (pool_[i] && program_.loss >> (i % 4) & 1) sum_of_all = sum_of_all + sum(pool_[i]);
      return program_.loss & 1 ? tanh(sum_of_all) : sum_of_all;
    };
    if ((program_.loss & 48) != 48) return total();
    return region({Kind::open, program_.loss % 7, 0, 0}, [&] { return std::vector<V>{total()}; })[0];
  }
  const std::vector<V>& inputs() const { return inputs_; }
  void forget_all() {
    pool_.clear();
    smuggled_.clear();
  }
  /// How often each policy that counts was asked about each slot.
  const std::vector<std::shared_ptr<std::map<remat::Index, int>>>& asked() const { return asked_; }
  int deepest() const { return deepest_; }

 private:
  struct Stop {};  // thrown out of regions
  static std::string label(const Step& step) { return std::string(1, static_cast<char>('a' + step.b % 3)); }

  /// The i-th Var that is there, from the newest back.
  std::size_t index(int i, bool whole) const {
    std::vector<std::size_t> candidates;
    for (std::size_t k = pool_.size(); k-- > 0;)
      if (pool_[k] && (!whole || pool_[k].shape() == remat::Shape{3, 4})) candidates.push_back(k);
    // Mostly the newest, so that long chains grow.
    return candidates[static_cast<std::size_t>(i * i / 12) % candidates.size()];
  }
  V pick(int i) const { return pool_[index(i, false)]; }
  V whole(int i) const { return pool_[index(i, true)]; }

  void steps() {
    while (at_ < program_.steps.size()) {
      const Step step = program_.steps[at_++];
      if (step.kind == Kind::close) return;
      if (step.kind == Kind::open)
        open(step);
      else
        run(step);
    }
  }

  void open(const Step& step) {
    if (depth_ == 4) return;
    const std::size_t base = pool_.size(), outer_base = std::exchange(base_, base), kept = kept_.size();
    const auto first_inside = static_cast<remat::SlotId>(tape_.program().slots.size());
    deepest_ = std::max(deepest_, ++depth_);
    std::vector<V> returned;
    try {
      returned = region(step, [&] {
        steps();
        std::vector<V> chosen = choose(step.c == 11 && step.b < 4 ? -1 : step.c, base);
        for (std::size_t i = base; step.b % 4 == 3 && i < pool_.size(); ++i) smuggled_.push_back(pool_[i]);
        pool_.resize(base);
        if (step.c == 10 && step.b < 4) throw Stop{};
        chosen.insert(chosen.end(), kept_.begin() + static_cast<std::ptrdiff_t>(kept), kept_.end());
        return chosen;
      });
    } catch (const Stop&) {
      std::erase_if(kept_, [&](const V& var) { return var.where().slot >= first_inside; });
    }
    if (--depth_ == 0) kept_.clear();
    base_ = outer_base;
    pool_.insert(pool_.end(), returned.begin(), returned.end());
  }
  template <class Fn>
  std::vector<V> region(const Step& step, Fn&& fn) {
    if (regions_.are == Regions::Are::absent) return fn();
    const bool replaced = regions_.are == Regions::Are::all_replaced ||
                          (regions_.are == Regions::Are::outermost_replaced && tape_.program().open_regions.empty());
    return tape_.checkpoint(replaced ? regions_.policy : policy_of(step), fn);
  }
  /// One to three of the Vars made inside; sometimes one twice, one from outside, or none.
  std::vector<V> choose(int c, std::size_t base) const {
    std::vector<V> inside, chosen;
    for (std::size_t k = pool_.size(); k-- > base;)
      if (pool_[k]) inside.push_back(pool_[k]);
    if (c < 0) return {};
    for (std::size_t i = 0; i < static_cast<std::size_t>(1 + c % 3) && !inside.empty(); ++i)
      chosen.push_back(inside[(c % 2 == 0 ? 1 : 2) * i % inside.size()]);
    if (c % 5 == 4 && !chosen.empty()) chosen.push_back(chosen[0]);
    if (c % 4 == 3)
      for (std::size_t k = 0; k < base; ++k)
        if (pool_[k] && chosen.size() < 4) chosen.push_back(pool_[k]);
    std::reverse(chosen.begin(), chosen.end());  // the newest stays the newest
    return chosen;
  }
  remat::Policy policy_of(const Step& step) {
    namespace policy = remat::policy;
    const auto counting = [&](auto answer) -> remat::Policy {
      const auto counts = asked_.emplace_back(std::make_shared<std::map<remat::Index, int>>());
      return [counts, answer](const remat::SlotInfo& slot) {
        ++(*counts)[slot.index];
        return answer(slot);
      };
    };
    switch (step.a) {
      case 0:
      case 9:
      case 10: return policy::nothing;
      case 1: return policy::everything;
      case 2: return policy::dots;
      case 3: return !policy::dots;
      case 4: return policy::ops(recorded({Kind::sin, Kind::tanh}));
      case 5:
        return labels_.empty() ? policy::any_name
                               : policy::names(labels_[static_cast<std::size_t>(step.b) % labels_.size()]);
      case 6: return counting([](const remat::SlotInfo&) { return true; });
      case 7: return offload(policy::dots) | policy::any_name;
      case 8: return !policy::ops(recorded({Kind::add, Kind::multiply, Kind::layer_norm, Kind::sum}));
      default:
        return counting([seed = static_cast<std::uint64_t>(step.a * 16 + step.b)](const remat::SlotInfo& slot) {
          return remat::RandomStream{seed, 0, 0}.word(static_cast<std::uint64_t>(slot.index)) % 2 == 0;
        });
    }
  }

  /// The names of those that the program has: a policy may name no op that the step lacks.
  std::vector<std::string> recorded(std::initializer_list<Kind> kinds) const {
    std::vector<std::string> names;
    for (const Kind kind : kinds)
      if (std::any_of(program_.steps.begin(), program_.steps.end(), [&](const Step& s) { return s.kind == kind; }))
        names.emplace_back(kind_names[static_cast<int>(kind)]);
    return names;
  }

  void push(V var) { pool_.push_back(std::move(var)); }
  /// Below the newest Var of the region, so that the chain goes on.
  void push_leaf(V var) {
    push(std::move(var));
    if (pool_.size() >= base_ + 2) std::swap(pool_[pool_.size() - 1], pool_[pool_.size() - 2]);
  }
  void run(const Step& s) {
    switch (s.kind) {
      case Kind::sin: return push(sin(pick(s.a)));
      case Kind::add: return push(pick(s.a) + pick(s.b));
      case Kind::square: return push(square(pick(s.a)));
      case Kind::tanh: return push(tanh(pick(s.a)));
      case Kind::exp: return push(exp(0.1 * pick(s.a)));
      case Kind::subtract: return push(pick(s.a) - pick(s.b));
      case Kind::multiply: return push(pick(s.a) * pick(s.b));
      case Kind::copy: return push(pick(s.a));
      case Kind::label: checkpoint_name(pick(s.a), label(s)); return;
      case Kind::keep:
        if (depth_ > 0) kept_.push_back(pick(s.a));
        return tape_.keep(pick(s.a));
      case Kind::forget:
        if (const std::size_t at = index(s.a, false); at > 2) pool_[at] = V();
        return;
      case Kind::input: return push_leaf(tape_.input(world_.y, {.wants_gradient = s.a % 2 == 0}));
      case Kind::scale: return push(pick(s.a) * world_.scale);
      case Kind::slice: return push(whole(s.a).slice(s.c % 3, s.c % 3 + 1));
      case Kind::reshape:
        if (s.c % 3 == 0) return push(sin(whole(s.a).reshape({12})).reshape({3, 4}));
        if (s.c % 3 == 1) return push(whole(s.a).reshape({4, 3}).reshape({3, 4}));
        return push(layer_norm(whole(s.a).reshape({2, 6})).reshape({3, 4}));
      case Kind::view_of_parameter: return push_leaf(tape_.parameter(world_.w).slice(s.c % 2, s.c % 2 + 3));
      case Kind::sum: return push(sum(pick(s.a), {s.c % 2}, true));
      case Kind::mean: return push(mean(pick(s.a), {s.c % 2}, true));
      case Kind::concat: {
        const int cut = s.c % 4;
        return push(remat::concat({whole(s.a).slice(0, cut), whole(s.b).slice(cut, 3)}));
      }
      case Kind::softmax: return push(softmax(pick(s.a)));
      case Kind::layer_norm:
        return push(s.c % 2 == 0 ? layer_norm(whole(s.a)) : layer_norm(whole(s.a), world_.scale, world_.bias));
      case Kind::linear:
        return push(linear<double>(whole(s.a), world_.w,
                                   s.c % 2 == 0 ? remat::Argument<double>() : remat::Argument<double>(world_.bias),
                                   {.transposed = s.c % 3 == 0}));
      case Kind::matmul:
        if (s.c % 2 == 0) return push(matmul(whole(s.a), world_.w));
        return push(matmul(matmul(whole(s.a), transpose(whole(s.b))), whole(s.b + 1)));
      case Kind::dropout: return push(dropout(pick(s.a), 0.2));
      case Kind::open:
      case Kind::close: return;
    }
  }

  remat::Tape& tape_;
  const RandomProgram& program_;
  const World& world_;
  Regions regions_;
  std::vector<V> inputs_, pool_;  // an empty Var was forgotten
  std::vector<V> smuggled_;       // out of regions that did not return them
  std::vector<V> kept_;           // inside regions, which must return them
  std::vector<std::string> labels_;
  std::vector<std::shared_ptr<std::map<remat::Index, int>>> asked_;
  std::size_t at_ = 0, base_ = 3;  // the next step; where the pool of the innermost region begins
  int depth_ = 0, deepest_ = 0;
};

}  // namespace remat_test

template <>
struct rc::Arbitrary<remat_test::RandomProgram> {
  static Gen<remat_test::RandomProgram> arbitrary() {
    using remat_test::Kind;
    using remat_test::RandomProgram;
    using remat_test::Step;
    const auto number = gen::inRange(0, 12);
    // Of each kind one, and more of those that make long chains in nested regions.
    const auto kind = gen::map(gen::inRange(0, 62), [](int i) {
      constexpr int kinds = static_cast<int>(Kind::dropout) + 1;
      constexpr Kind often[] = {Kind::sin,   Kind::tanh, Kind::open,   Kind::multiply, Kind::exp,     Kind::layer_norm,
                                Kind::close, Kind::add,  Kind::square, Kind::linear,   Kind::softmax, Kind::scale};
      return i < kinds ? static_cast<Kind>(i) : often[(i - kinds) % 12];
    });
    const auto step = gen::build<Step>(gen::set(&Step::kind, kind), gen::set(&Step::a, number),
                                       gen::set(&Step::b, number), gen::set(&Step::c, number));
    return gen::build<RandomProgram>(gen::set(&RandomProgram::steps, gen::container<std::vector<Step>>(step)),
                                     gen::set(&RandomProgram::loss, gen::inRange(0, 64)),
                                     gen::set(&RandomProgram::gradients_exist), gen::set(&RandomProgram::locals_live),
                                     gen::set(&RandomProgram::peeks));
  }
};
