// Promise: nothing is recomputed or kept in vain. Counts of published cases, met or beaten exactly.
#include <gtest/gtest.h>

#include <remat/autodiff/report.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/params/registry.hpp>
#include <remat/policy/phrase_book.hpp>

namespace {

using namespace remat;

// torchtitan's toy for selective checkpointing: three linears, one region, sum as loss.
class ThreeLinears : public testing::Test {
 protected:
  static constexpr double unit = 2.0 * 512 * 512 * 512;
  struct Counts {
    double flops, mebibytes;
    Tensor<float> grad;
  };
  Counts run(const Policy& policy) {
    ParameterRegistry parameters;
    const auto w = [&](const char* name, Index out) {
      return (parameters / name).parameter<float>("w", {512, out}, init::normal(0.02));
    };
    const auto w1 = w("gate", 512), w2 = w("wq", 512), w3 = w("output", 1024);
    Tape tape;
    const auto x = tape.input(Tensor<float>({512, 512}, 0.5F), {.wants_gradient = true});
    const auto y = tape.checkpoint(
        policy, [&] { return linear<float>(linear<float>(checkpoint_name(linear<float>(x, w1), "gate"), w2), w3); });
    tape.backward(sum(y));
    const TapeStats stats = tape.stats();
    return {stats.backward_flops / unit, static_cast<double>(stats.saved_bytes) / (1 << 20), tape.grad(x)};
  }
};

TEST_F(ThreeLinears, CountsAreExact) {
  const Counts keep = run(policy::everything), one = run(policy::names("gate")), none = run(policy::nothing);
  EXPECT_EQ(keep.flops, 8);
  EXPECT_EQ(keep.mebibytes, 2);
  EXPECT_EQ(one.flops, 9);
  EXPECT_EQ(one.mebibytes, 1);
  EXPECT_EQ(none.flops, 10);
  EXPECT_EQ(none.mebibytes, 0);
  EXPECT_TRUE(same_bits(keep.grad, one.grad));
  EXPECT_TRUE(same_bits(keep.grad, none.grad));
}

Var<double> scalar_input(Tape& tape) { return tape.input(Tensor<double>({1}, 0.4), {.wants_gradient = true}); }

TEST(NothingInVain, SinOfSinKeepsXAndReplaysOneSin) {
  Tape tape;
  const auto x = scalar_input(tape) * 1.0;  // a value of the tape, so that keeping it is seen
  tape.backward(sum(tape.checkpoint(policy::nothing, [&] { return sin(sin(x)); })));
  EXPECT_EQ(tape.stats().replayed_by_op, (std::map<std::string, Index>{{"sin", 1}}));
  const auto saved = saved_residuals(tape);
  ASSERT_EQ(saved.size(), 1U);
  EXPECT_EQ(saved[0].op, "multiply");
  EXPECT_EQ(tape.stats().saved_bytes, 8U);
}

// jax.checkpoint policies on sin(square(sin(x))).
TEST(NothingInVain, SinOfSquareOfSin) {
  const auto replays = [](const Policy& policy) {
    Tape tape;
    const auto x = scalar_input(tape);
    tape.backward(sum(tape.checkpoint(policy, [&] { return sin(square(sin(x))); })));
    return tape.stats().replayed_by_op;
  };
  EXPECT_EQ(replays(policy::everything), (std::map<std::string, Index>{}));
  EXPECT_EQ(replays(policy::nothing), (std::map<std::string, Index>{{"sin", 1}, {"square", 1}}));
  EXPECT_EQ(replays(policy::ops("sin")), (std::map<std::string, Index>{{"square", 1}}));
}

// Three layers sin(W x), W 5x4, 6x5, 7x6: floats held, without region and in one or three regions.
TEST(NothingInVain, ThreeSinLayers) {
  struct Counts {
    std::size_t floats;
    std::map<std::string, Index> replayed;
  };
  const auto run = [](const Policy& policy, bool region_per_layer) {
    ParameterRegistry parameters;
    Tape tape;
    const auto x = tape.input(Tensor<float>({4, 1}, 0.3F), {.wants_gradient = true});
    const auto layer = [&](Var<float> h, Index i) {
      const auto w =
          (parameters / ("layer_" + std::to_string(i))).parameter<float>("w", {5 + i, 4 + i}, init::constant(0.1));
      const auto body = [&] {
        const auto y = sin(matmul(tape.parameter(w), h));
        return i == 1 ? checkpoint_name(y, "middle") : y;
      };
      return region_per_layer ? tape.checkpoint(policy, body) : body();
    };
    const auto all = [&] { return layer(layer(layer(x, 0), 1), 2); };
    tape.backward(sum(region_per_layer || policy == policy::everything ? all() : tape.checkpoint(policy, all)));
    return Counts{tape.stats().saved_bytes / sizeof(float), tape.stats().replayed_by_op};
  };
  EXPECT_EQ(run(policy::everything, false).floats, 29U);
  const Counts each = run(policy::nothing, true);
  EXPECT_EQ(each.floats, 11U);
  EXPECT_EQ(each.replayed, (std::map<std::string, Index>{{"matmul", 3}}));
  EXPECT_EQ(run(policy::dots, false).floats, 18U);
  const Counts named = run(policy::names("middle"), false);
  EXPECT_EQ(named.replayed, (std::map<std::string, Index>{{"matmul", 3}, {"sin", 1}}));
}

// JAX's recursive checkpointing: halves of a chain, the first half a region.
template <class F>
Var<double> recursive(Tape& tape, const Var<double>& x, int n, const F& f) {
  if (n == 1) return f(x);
  if (n == 2) return f(f(x));
  const auto first = tape.checkpoint(policy::nothing, [&] { return recursive(tape, x, n / 2, f); });
  return recursive(tape, first, n / 2, f);
}

template <class F>
void expect_replays(const F& f, std::initializer_list<std::pair<int, Index>> counts) {
  for (const auto& [n, expected] : counts) {
    Tape tape, plain;
    const auto x = scalar_input(tape), plain_x = scalar_input(plain);
    tape.backward(sum(recursive(tape, x, n, f)));
    EXPECT_EQ(tape.stats().ops_replayed, expected) << n << " ops";
    auto y = plain_x;
    for (int i = 0; i < n; ++i) y = f(y);
    plain.backward(sum(y));
    EXPECT_TRUE(same_bits(tape.grad(x), plain.grad(plain_x)));
  }
}

TEST(NothingInVain, RecursionOverOpsThatReadTheirInput) {
  expect_replays([](const Var<double>& x) { return sin(x); }, {{4, 1}, {8, 5}, {16, 17}, {32, 49}});
}
// JAX asserts 2, 8, 24: it replays what a reader outside holds anyway.
TEST(NothingInVain, RecursionOverOpsThatReadTheirOutput) {
  expect_replays([](const Var<double>& x) { return tanh(x); }, {{4, 2}, {8, 7}, {16, 21}});
}

// An output that the loss ignores costs no replay and holds no input.
TEST(NothingInVain, IgnoredOutputsCostNothing) {
  Tape tape;
  const auto x = scalar_input(tape) * 1.0;
  const auto z = scalar_input(tape) * 2.0;
  const auto both = tape.checkpoint(policy::nothing, [&] { return std::pair(sin(sin(x)), sin(sin(z))); });
  tape.backward(sum(both.first));
  EXPECT_EQ(tape.stats().ops_replayed, 1);
  EXPECT_EQ(tape.stats().saved_bytes, 8U);
}

// A region's output that is also a residual of a reader outside is kept once and serves the replay too.
TEST(NothingInVain, OutputThatIsAlsoAResidualIsCountedOnce) {
  Tape tape;
  const auto x = scalar_input(tape) * 1.0;
  const auto y = tape.checkpoint(policy::nothing, [&] { return tanh(x); });
  tape.backward(sum(sin(y)));
  EXPECT_EQ(tape.stats().saved_bytes, 8U);  // y alone: tanh's backward reads its output
  EXPECT_EQ(tape.stats().ops_replayed, 0);
}

// A constant made inside a region is never kept: it is a leaf, and the tape has it anyway.
TEST(NothingInVain, ConstantsAreNotKept) {
  for (const Policy& policy :
       {policy::everything, policy::save_everything, policy::nothing, offload(policy::everything)}) {
    Tape tape;
    const auto x = scalar_input(tape) * 1.0;
    tape.backward(sum(tape.checkpoint(policy, [&] { return x * Tensor<double>({1}, 3.0); })));
    EXPECT_EQ(tape.stats().saved_bytes, 0U) << policy;
    EXPECT_EQ(tape.stats().offloaded_bytes, 0U) << policy;
    EXPECT_EQ(tape.stats().ops_replayed, 0) << policy;
  }
}

// A label given between two readers serves both: the value is held once and made once.
TEST(NothingInVain, AValueReadBeforeAndAfterItWasLabelledIsHeldOnce) {
  Tape tape;
  const auto x = scalar_input(tape);
  const auto y = tape.checkpoint(policy::names("middle"), [&] {
    const auto middle = sin(x);
    const auto before = exp(sin(middle));
    return before * sin(checkpoint_name(middle, "middle"));
  });
  tape.backward(sum(y));
  EXPECT_EQ(tape.stats().saved_bytes, sizeof(double));
  EXPECT_EQ(saved_residuals(tape).size(), 1U);
  EXPECT_EQ(tape.stats().replayed_by_op, (std::map<std::string, Index>{{"sin", 2}, {"exp", 1}}));
}

// Sine and cosine at once; backward reads both.
struct SinCos final : Op {
  static constexpr In<double> x{0};
  static constexpr Out<double> sine{0}, cosine{1};
  bool coupled;
  explicit SinCos(bool c) : Op("sin_cos"), coupled(c) {}
  Specs infer(const Operands& in) const override { return {sine(in[x].shape), cosine(in[x].shape)}; }
  Cost cost(const Operands&, const Specs&) const override { return {.coupled = coupled}; }
  Residuals residuals(const Wanted&) const override { return {sine, cosine}; }
  void forward(Frame& f) const override {
    for (Index i = 0; i < f[x].size(); ++i) {
      f[sine].data()[i] = std::sin(f[x].data()[i]);
      f[cosine].data()[i] = std::cos(f[x].data()[i]);
    }
  }
  void backward(Frame& f) const override {
    for (Index i = 0; i < f[x].size(); ++i)
      f.grad(x).data()[i] = f.grad(sine).data()[i] * f[cosine].data()[i] - f.grad(cosine).data()[i] * f[sine].data()[i];
  }
};

TEST(NothingInVain, OfTwoOutputsTheNamedOneIsKeptAndBothIfCoupled) {
  const auto run = [](bool coupled) {
    Tape tape;
    const auto x = scalar_input(tape);
    tape.backward(sum(tape.checkpoint(policy::names("sine"), [&] {
      const Results both = record(SinCos(coupled), x);
      return checkpoint_name(both[SinCos::sine], "sine") + both[SinCos::cosine];
    })));
    return std::pair(tape.stats().saved_bytes / sizeof(double), tape.stats().ops_replayed);
  };
  EXPECT_EQ(run(false), std::pair(std::size_t{1}, Index{1}));
  EXPECT_EQ(run(true), std::pair(std::size_t{2}, Index{0}));
}

// Transformer layers under policies by name: what the middle one of three holds.
class Layers : public testing::Test {
 protected:
  static constexpr int B = 2, S = 5, D = 12, F = 20, N = 3;
  static constexpr std::size_t BTD = B * S * D, BTF = B * S * F, BNT = B * N * S;
  struct Held {
    std::size_t floats = 0;                    // beside what enters the layer
    std::map<std::string, std::string> named;  // why, by label
  };
  static Held held(const Policy& policy, nn::NormPlacement placement = nn::NormPlacement::pre) {
    nn::TransformerLayerConfig layer{
        .model_dims = D, .hidden_dims = F, .num_heads = N, .norm_placement = placement, .dropout = 0.1};
    ParameterRegistry parameters;
    const nn::StackedTransformer<float> stack(parameters / "stack", {.layers = {layer, layer, layer}, .remat = policy});
    Tape tape({.step = 0});
    const auto x = tape.input(Tensor<float>({B, S, D}, 0.5F));
    tape.backward(sum(square(stack(x))));
    Held held;
    std::size_t total = 0;
    for (const SavedResidual& saved : saved_residuals(tape)) {
      total += saved.bytes;
      const auto is = [&](const char* label) {
        return std::find(saved.labels.begin(), saved.labels.end(), label) != saved.labels.end();
      };
      // What a layer gives is the input of the next one.
      if (saved.layer_path.rfind("stack/layer_1", 0) != 0 || is("transformer_layer_out")) continue;
      held.floats += saved.bytes / sizeof(float);
      for (const std::string& label : saved.labels) held.named[label] = saved.why;
    }
    EXPECT_EQ(total, tape.stats().saved_bytes);  // the report hides nothing
    return held;
  }
};

// The skip connection's sum needs no operand, so before a next norm only the sum is read; a norm behind reads it.
TEST_F(Layers, OnlyALayerWithNormsBehindItsBranchesHoldsFfn2) {
  const Policy& policy = policy::save_dot_except_logits_ffn1;
  EXPECT_FALSE(held(policy).named.contains("ffn2"));
  EXPECT_TRUE(held(policy).named.contains("out_proj"));
  const Held post = held(policy, nn::NormPlacement::post);
  ASSERT_TRUE(post.named.contains("ffn2"));
  EXPECT_NE(post.named.at("ffn2").find("replay of"), std::string::npos) << post.named.at("ffn2");
}

TEST_F(Layers, HoldNoMoreFloatsThanPublished) {
  EXPECT_EQ(held(policy::nothing).floats, 0U);
  EXPECT_EQ(held(policy::save_out_proj).floats, BTD);
  EXPECT_EQ(held(policy::save_context).floats,
            BTD + 2 * BNT);  // with attention's log-sum-exp in two parts, its coupled results
  EXPECT_EQ(held(policy::save_qkv_out_proj_separate).floats, 4 * BTD);
  EXPECT_EQ(held(policy::save_dot_except_logits).floats, 5 * BTD + BTF + 2 * BNT);  // published: 6, with ffn2
  EXPECT_EQ(held(policy::save_dot_except_logits, nn::NormPlacement::post).floats, 6 * BTD + BTF + 2 * BNT);
}

// User code runs once, so a region may look at data: how often it loops, what it does, whether it opens another one.
class DataDependent : public testing::Test {
 protected:
  struct Outcome {
    Tensor<double> grad;
    int turns = 0;
    TapeStats stats;
  };
  /// Halves x until it is small, by turns in two ways, each turn a region in a region if it is asked for.
  static Outcome run(double start, bool regions) {
    Tape tape;
    Outcome outcome;
    const auto x = tape.input(Tensor<double>({3}, start), {.wants_gradient = true});
    const auto maybe = [&](const Policy& policy, auto&& fn) { return regions ? tape.checkpoint(policy, fn) : fn(); };
    const auto y = maybe(policy::nothing, [&] {
      auto h = x * 1.0;
      while (sum(h).item() > 0.5) {  // read inside
        ++outcome.turns;
        const auto turn = [&] { return sin(sin(h) * 0.75); };
        h = sum(square(h)).item() > 1 ? maybe(policy::nothing, turn) : turn();
      }
      return h;
    });
    tape.backward(sum(square(y)));
    outcome.grad = tape.grad(x);
    outcome.stats = tape.stats();
    return outcome;
  }
};

TEST_F(DataDependent, LoopsAndConditionsInsideRegions) {
  int last_turns = 0;
  for (const double start : {0.1, 0.5, 0.9, 1.5}) {
    const Outcome plain = run(start, false), remat = run(start, true);
    EXPECT_TRUE(same_bits(plain.grad, remat.grad)) << start;
    EXPECT_EQ(plain.turns, remat.turns);  // the function ran once
    EXPECT_GE(remat.turns, last_turns);
    last_turns = remat.turns;
    EXPECT_EQ(plain.stats.ops_replayed, 0);
    EXPECT_EQ(remat.stats.ops_replayed > 0, remat.turns > 0) << start;
    EXPECT_LE(remat.stats.saved_bytes, 2 * 3 * sizeof(double));  // the first and the last h
  }
  EXPECT_GT(last_turns, 3);
}

}  // namespace
