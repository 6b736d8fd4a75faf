// Gradients are right: every row of the table of op cases, on every set of shapes.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <ops/op_cases.hpp>
#include <promises/op_bench.hpp>
#include <promises/op_outcome.hpp>
#include <remat/autodiff/gradient_check.hpp>
#include <remat/params/registry.hpp>
#include <set>
#include <sstream>

namespace {

using namespace remat;
using namespace remat_test;

Tensor<double> value_at(const OpRun& run, const std::vector<Tensor<double>>& inputs) {
  Tape tape({.seed = 3, .step = 2});
  std::vector<Var<double>> x;
  for (const Tensor<double>& value : inputs) x.push_back(tape.input(value));
  return run(tape, x).value();
}

/// The gradients of element `j` of the result.
std::vector<Tensor<double>> gradients_of(const OpRun& run, const std::vector<Tensor<double>>& inputs, Index j) {
  Tape tape({.seed = 3, .step = 2});
  std::vector<Var<double>> x;
  for (const Tensor<double>& value : inputs) x.push_back(tape.input(value, {.wants_gradient = true}));
  const Var<double> y = run(tape, x);
  tape.backward(sum(y.reshape({y.shape().size()}).slice(j, j + 1)));
  std::vector<Tensor<double>> gradients;
  for (const Var<double>& each : x) gradients.push_back(tape.grad(each));
  return gradients;
}

constexpr double step = 1e-3;

/// May each element be moved by itself? The cost is that of a run for each: a sum of many elements is large too.
bool is_small(const OpRun& run, Index results) { return run.input_size() * (run.input_size() + results) <= 300'000; }

// On one thread: so many short runs would mostly wait for the others. That they change no bit is tried below.
TEST(GradientsAreRight, WholeJacobians) {
  const Threads one(1);
  for (const OpRun& run : op_runs()) {
    SCOPED_TRACE(run.name());
    std::vector<Tensor<double>> inputs = run.values<double>();
    const Index results = value_at(run, inputs).size();
    if (!is_small(run, results)) continue;
    std::vector<std::vector<Tensor<double>>> rows;
    for (Index j = 0; j < results; ++j) rows.push_back(gradients_of(run, inputs, j));
    for (std::size_t k = 0; k < inputs.size(); ++k) {
      double error = 0, scale = 1e-6;
      for (Index i = 0; i < inputs[k].size(); ++i) {
        const double here = inputs[k][i];
        const auto at = [&](double distance) {
          inputs[k].write()[i] = here + distance;
          return value_at(run, inputs);
        };
        const std::vector<double> column = remat::detail::derivative(at, step);
        inputs[k].write()[i] = here;
        for (std::size_t j = 0; j < column.size(); ++j) {
          const double each = std::abs(rows[j][k][i] - column[j]);
          ASSERT_FALSE(std::isnan(each)) << "operand " << k << ", d y[" << j << "] / d x[" << i << "]";
          error = std::max(error, each);
          scale = std::max(scale, std::abs(column[j]));
        }
      }
      EXPECT_LE(error, 1e-7 * scale) << "operand " << k;
    }
  }
}

// Those too large for a whole Jacobian: along one direction of all operands.
TEST(GradientsAreRight, LargeCasesAlongADirection) {
  int cases = 0;
  for (const OpRun& run : op_runs()) {
    const std::vector<Tensor<double>> inputs = run.values<double>();
    if (is_small(run, value_at(run, inputs).size())) continue;
    SCOPED_TRACE(run.name());
    ++cases;
    const auto direction = [](std::size_t k, Index i) {
      return remat::RandomStream{.seed = 8, .site = static_cast<std::uint32_t>(k)}.normal(
          static_cast<std::uint64_t>(i));
    };
    const auto at = [&](double distance) {
      std::vector<Tensor<double>> moved = inputs;
      for (std::size_t k = 0; k < moved.size(); ++k)
        for (Index i = 0; i < moved[k].size(); ++i) moved[k].write()[i] += distance * direction(k, i);
      return value_at(run, moved);
    };
    double numeric = 0, analytic = 0, terms = 0;
    const std::vector<double> slopes = remat::detail::derivative(at, step);
    for (std::size_t j = 0; j < slopes.size(); ++j)
      numeric += remat::detail::WeightedSum<double>::weight(static_cast<Index>(j)) * slopes[j];
    const Outcome<double> result = outcome<double>(run);
    for (std::size_t k = 0; k < inputs.size(); ++k)
      for (Index i = 0; i < inputs[k].size(); ++i) {
        const double term = result.gradients[k][i] * direction(k, i);
        analytic += term;
        terms += term * term;
      }
    EXPECT_NEAR(analytic, numeric, 1e-7 * std::sqrt(terms));
  }
  EXPECT_GT(cases, 5);
}

/// Type and shape of every slot that the run makes.
template <class T>
std::vector<remat::Spec> slots_of(const OpRun& run, Mode mode) {
  Tape tape({.seed = 3, .step = 2, .mode = mode});
  std::vector<Var<T>> x;
  for (const Tensor<T>& value : run.values<T>()) x.push_back(tape.input(value, {.wants_gradient = true}));
  const Var<T> y = run(tape, x);
  std::vector<remat::Spec> specs{{remat::dtype_of<T>(), y.shape()}};
  for (const remat::Slot& slot : tape.program().slots) specs.push_back(slot.spec);
  return specs;
}

TEST(GradientsAreRight, InferEqualsForward) {
  for (const OpRun& run : op_runs()) {
    SCOPED_TRACE(run.name());
    EXPECT_TRUE(slots_of<float>(run, Mode::plan) == slots_of<float>(run, Mode::train));
    EXPECT_TRUE(slots_of<double>(run, Mode::plan) == slots_of<double>(run, Mode::train));
  }
}

template <class T>
void expect_equal_replay(const OpRun& run) {
  const Outcome<T> replayed = outcome<T>(run, {.in_region = true, .wrapped = true, .verify = true});
  EXPECT_TRUE(same(outcome<T>(run, {.wrapped = true}), replayed));
  EXPECT_GT(replayed.ops_replayed, static_cast<Index>(run.inputs.shapes.size()));  // more than those around it
  EXPECT_TRUE(same(outcome<T>(run), outcome<T>(run, {.in_region = true})));
}

TEST(GradientsAreRight, ReplayChangesNoBit) {
  for (const OpRun& run : op_runs()) {
    SCOPED_TRACE(run.name());
    expect_equal_replay<float>(run);
    expect_equal_replay<double>(run);
  }
}

TEST(GradientsAreRight, ThreadsChangeNoBit) {
  const auto with = [](int threads, const OpRun& run) {
    const Threads guard(threads);
    return outcome<float>(run);
  };
  for (const OpRun& run : op_runs()) {
    SCOPED_TRACE(run.name());
    const Outcome<float> one = with(1, run);
    EXPECT_TRUE(same(one, with(2, run)));
    EXPECT_TRUE(same(one, with(3, run)));
  }
}

TEST(GradientsAreRight, FloatAgreesWithDouble) {
  for (const OpRun& run : op_runs()) {
    SCOPED_TRACE(run.name());
    const Outcome<float> single = outcome<float>(run);
    const Outcome<double> twice = outcome<double>(run);
    EXPECT_LE(difference(single.value, twice.value), 1e-5);
    for (std::size_t k = 0; k < twice.gradients.size(); ++k)
      EXPECT_LE(difference(single.gradients[k], twice.gradients[k]), 5e-5) << "operand " << k;
  }
}

TEST(GradientsAreRight, EvaluateGivesTheSameValues) {
  for (const OpRun& run : op_runs()) {
    if (run.op.is_random) continue;
    SCOPED_TRACE(run.name());
    Tape tape({.mode = Mode::evaluate});
    std::vector<Var<float>> x;
    for (const Tensor<float>& value : run.values<float>()) x.push_back(tape.input(value));
    EXPECT_TRUE(same_bits(run(tape, x).value(), outcome<float>(run).value));
  }
}

TEST(GradientsAreRight, EachOperandAlone) {
  for (const OpRun& run : op_runs()) {
    SCOPED_TRACE(run.name());
    const Outcome<double> all = outcome<double>(run);
    for (std::size_t k = 0; k < all.gradients.size(); ++k) {
      const Outcome<double> one = outcome<double>(run, {.only_wanted = static_cast<int>(k)});
      EXPECT_TRUE(same_bits(one.gradients[k], all.gradients[k])) << "operand " << k;
    }
  }
}

TEST(GradientsAreRight, UsesAreSummed) {
  for (const OpRun& run : op_runs()) {
    if (run.op.is_random) continue;
    SCOPED_TRACE(run.name());
    const Outcome<double> once = outcome<double>(run);
    for (const bool in_region : {false, true}) {
      const Outcome<double> thrice = outcome<double>(run, {.in_region = in_region, .times = 3});
      for (std::size_t k = 0; k < once.gradients.size(); ++k)
        EXPECT_LE(difference(thrice.gradients[k], once.gradients[k], 3), 1e-13) << "operand " << k;
    }
  }
}

TEST(GradientsAreRight, ParametersAccumulateOverTapes) {
  for (const OpRun& run : op_runs()) {
    SCOPED_TRACE(run.name());
    const Outcome<double> expected = outcome<double>(run);
    const remat::ParameterRegistry registry;
    std::vector<remat::Parameter<double>> parameters;
    for (const Tensor<double>& value : run.values<double>()) {
      const std::string name = "x" + std::to_string(parameters.size());
      parameters.push_back((registry / "op").parameter<double>(name, value.shape(), remat::init::zeros()));
      parameters.back().set_value(value);
    }
    for (int round = 1; round <= 2; ++round) {
      Tape tape({.seed = 3, .step = 2});
      std::vector<Var<double>> x;
      for (const auto& each : parameters) x.push_back(tape.parameter(each));
      tape.backward(remat::detail::weighted_sum(run(tape, x)));
      for (std::size_t k = 0; k < parameters.size(); ++k)
        EXPECT_LE(difference(parameters[k].grad(), expected.gradients[k], round), 1e-13) << "operand " << k;
    }
  }
}

TEST(GradientsAreRight, OpsKeepTheirWord) {
  for (const OpRun& run : op_runs()) {
    SCOPED_TRACE(run.name());
    for_each_op<double>(run, [](OpBench& bench) { EXPECT_TRUE(keeps_its_word(bench)); });
    for_each_op<float>(run, [](OpBench& bench) { EXPECT_TRUE(keeps_its_word(bench)); });
  }
}

/// Ops that break their word, each in one way.
enum class Sin { none, reads_input, leaves_a_hole, is_not_in_place, does_not_add, is_wrong };
struct Rogue : Op {
  static constexpr remat::In<double> x{0};
  static constexpr remat::Out<double> y{0};
  explicit Rogue(Sin sin) : Op("rogue"), sin(sin) {}
  remat::Specs infer(const remat::Operands& in) const override { return {y(in[x].shape)}; }
  remat::Residuals residuals(const remat::Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    for (Index i = sin == Sin::leaves_a_hole; i < f[x].size(); ++i) f[y].data()[i] = 2 * f[x].data()[i];
  }
  void backward(Frame& f) const override {
    double factor = 2;
    if (sin == Sin::reads_input) factor = f[x].data()[0];
    const Index n = f[x].size();
    for (Index i = 0; i < n; ++i) f.grad(x).data()[i] = factor * f.grad(y).data()[i];
    if (sin == Sin::is_wrong) f.grad(x).data()[n - 1] += 1;
    if (sin == Sin::is_not_in_place) f.grad(x).data()[0] = factor * f.grad(y).data()[0];
  }
  remat::GradientRule gradient(int) const override { return {.adds = sin == Sin::does_not_add, .in_place = true}; }
  Sin sin;
};

TEST(GradientsAreRight, BrokenWordsAreNoticed) {
  const remat::Spec spec{remat::DType::float64, {4}};
  const auto check = [&](Sin sin) {
    const Rogue rogue(sin);
    OpBench bench(rogue, {{spec, true, true, {}}}, {Buffer(spec, 1.5)});
    return keeps_its_word(bench);
  };
  EXPECT_TRUE(check(Sin::none));
  for (const Sin sin : {Sin::reads_input, Sin::leaves_a_hole, Sin::is_not_in_place, Sin::does_not_add})
    EXPECT_FALSE(check(sin)) << static_cast<int>(sin);
}

TEST(GradientsAreRight, UndeclaredReadsAreRefusedByTheEngine) {
  Tape tape;
  const Var<double> x = tape.input(Tensor<double>({4}, 1.5), {.wants_gradient = true});
  const Var<double> y = record(Rogue(Sin::reads_input), x)[Rogue::y];
  EXPECT_THROW(tape.backward(sum(y)), remat::Error);
}

TEST(GradientCheck, FindsTheWrongElement) {
  const auto rogue = [](Tape&, const std::vector<Var<double>>& x) {
    return record(Rogue(Sin::none), x[0])[Rogue::y] + record(Rogue(Sin::is_wrong), x[1])[Rogue::y];
  };
  const auto result = remat::gradient_check(rogue, {Tensor<double>({4}, 1.5), Tensor<double>({4}, {1, 2, 3, 4})});
  ASSERT_EQ(result.inputs.size(), 2U);
  EXPECT_LE(result.inputs[0].relative_error(), 1e-9);
  EXPECT_GT(result.inputs[1].relative_error(), 0.1);
  EXPECT_EQ(result.inputs[1].worst, 3);
  EXPECT_FALSE(result.ok(1e-3));
  std::ostringstream text;
  text << result;
  EXPECT_NE(text.str().find("[4]"), std::string::npos) << text.str();
}

TEST(GradientCheck, AgreesWithRightGradients) {
  const auto fn = [](Tape&, const std::vector<Var<double>>& x) { return softmax(matmul(x[0], x[1])) / x[2]; };
  const auto result =
      remat::gradient_check(fn, {Tensor<double>({2, 3}, {1, 2, 3, 4, 5, 6}),
                                 Tensor<double>({3, 2}, {.1, .2, -.3, .4, .5, -.6}), Tensor<double>({2, 1}, {2, 3})});
  EXPECT_TRUE(result.ok(1e-9)) << result;
}

TEST(GradientsAreRight, EveryOpHasARow) {
  std::map<std::string, std::set<std::string>> tried;  // shapes of operands by op
  for (const OpRun& run : op_runs())
    for_each_op<float>(run, [&](OpBench& bench) {
      std::string shapes;
      for (const remat::OperandSpec& operand : bench.specs())
        shapes += operand.present ? operand.spec.shape.to_string() : "-";
      tried[bench.op().name()].insert(shapes);
    });
  // An op's name is a literal given to Op(...) or to an op of several names, or the `name` of a function object.
  const auto names_an_op = [](const std::string& line) {
    for (const char* before : {"Op(", "char* name =", "record(O(\"", "compare({.name = \"", " : Base("})
      if (line.find(before) != std::string::npos) return true;
    return false;
  };
  int found = 0;
  for (const auto& file : std::filesystem::directory_iterator(REMAT_SOURCE_DIR "/include/remat/ops")) {
    std::ifstream text(file.path());
    for (std::string line; std::getline(text, line);) {
      if (!names_an_op(line)) continue;
      for (std::size_t quote = line.find('"'); quote != std::string::npos;) {
        const std::size_t end = line.find('"', quote + 1);
        ASSERT_NE(end, std::string::npos) << line;
        const std::string name = line.substr(quote + 1, end - quote - 1);
        EXPECT_TRUE(tried.contains(name))
            << file.path().filename() << ": op \"" << name << "\" has no row in tests/ops/*_cases.hpp";
        EXPECT_GE(tried[name].size(), 6U) << name << " is tried on too few shapes of its operands";
        ++found;
        quote = line.find('"', end + 1);
      }
    }
  }
  EXPECT_GE(found, 70);
}

}  // namespace
