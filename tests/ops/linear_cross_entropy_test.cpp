#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <ops/try_op.hpp>
#include <promises/op_bench.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::parameter_of, remat_test::random_tensor;
using Ids = Tensor<std::int32_t>;

template <class T>
struct Step {
  T loss = 0;
  std::vector<Tensor<T>> gradients;  // of x, w and, where there is one, b
  TapeStats stats;
};

/// Loss and gradients of `fn(x, w, b)`, where w and b are parameters.
template <class T, class F>
Step<T> step(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& b, F&& fn) {
  ParameterRegistry registry;
  const auto weight = parameter_of(registry, "w", w), bias = parameter_of(registry, "b", b);
  Tape tape;
  const Var<T> input = tape.input(x, {.wants_gradient = true});
  const Var<T> loss = fn(input, weight, bias);
  Step<T> step{loss.item(), {}, {}};
  tape.backward(loss);
  step.gradients = {tape.grad(input), weight.grad(), bias.grad()};
  step.stats = tape.stats();
  return step;
}

/// Of 7 tokens, chunks of 3 hold 0, 2 and 1 that count.
Ids uneven_targets() { return Ids({7}, {-1, -1, -1, 5, -1, 0, 8}); }
Tensor<double> uneven_weights() { return Tensor<double>({7}, {1, 2, 0.5, 0.25, 3, 0, 2}); }

TEST(LinearCrossEntropy, EqualsTheUnchunkedMean) {
  const CrossEntropyOptions plain, smooth{.label_smoothing = 0.1}, z{.z_loss = 0.01}, cap{.soft_cap = 2},
      times{.logit_multiplier = 3};
  CrossEntropyOptions all{.ignore = 5, .label_smoothing = 0.1, .z_loss = 0.01, .soft_cap = 2};
  all.logit_multiplier = 0.3;
  for (const CrossEntropyOptions& o : {plain, smooth, z, cap, times, all})
    for (const bool transposed : {false, true})
      for (const bool is_weighted : {false, true}) {
        Ids targets = uneven_targets();
        for (Index i = 0; i < 7; ++i) targets.write()[i] = targets[i] == -1 ? o.ignore : targets[i];
        const Like<double> weights = is_weighted ? Like<double>(uneven_weights()) : Like<double>();
        const auto x = random_tensor<double>({7, 5}, 1), b = random_tensor<double>({9}, 3);
        const auto w = random_tensor<double>(transposed ? Shape{9, 5} : Shape{5, 9}, 2);
        const auto expected = step(x, w, b, [&](const auto& x, const auto& w, const auto& b) {
          return cross_entropy(linear(x, w, b, {.transposed = transposed}), targets, o, weights);
        });
        for (const Index chunk : {0, 1, 2, 3, 7, 100}) {
          SCOPED_TRACE(chunk);
          LinearCrossEntropyOptions chunked{o.ignore, o.label_smoothing, o.z_loss, o.soft_cap, transposed, chunk};
          chunked.logit_multiplier = o.logit_multiplier;
          const auto found = step(x, w, b, [&](const auto& x, const auto& w, const auto& b) {
            return linear_cross_entropy(x, w, b, targets, chunked, weights);
          });
          EXPECT_NEAR(found.loss, expected.loss, 1e-12);
          for (std::size_t k = 0; k < 3; ++k)
            for (Index i = 0; i < expected.gradients[k].size(); ++i)
              EXPECT_NEAR(found.gradients[k][i], expected.gradients[k][i], 1e-12) << "operand " << k;
        }
      }
}

// Losses one by one lie where the whole logits would have put them, and each passes its own gradient.
TEST(LinearCrossEntropy, ReducesAsTheUnchunked) {
  const auto x = random_tensor<double>({7, 5}, 1), w = random_tensor<double>({5, 9}, 2),
             b = random_tensor<double>({9}, 3), factors = random_tensor<double>({7}, 4);
  for (const Reduction reduction : {Reduction::none, Reduction::sum}) {
    const auto reduced = [&](const Var<double>& loss) {
      EXPECT_EQ(loss.shape(), reduction == Reduction::none ? Shape{7} : Shape{});
      return sum(loss * (reduction == Reduction::none ? factors : Tensor<double>({}, -3.0)));
    };
    const auto expected = step(x, w, b, [&](const auto& x, const auto& w, const auto& b) {
      return reduced(
          cross_entropy(linear(x, w, b), uneven_targets(), {.z_loss = 0.01, .reduction = reduction}, uneven_weights()));
    });
    for (const bool keeps : {false, true})
      for (const Index chunk : {1, 3, 7}) {
        if (keeps && reduction == Reduction::none) continue;
        SCOPED_TRACE(testing::Message() << "chunk " << chunk << ", gradients kept " << keeps);
        const LinearCrossEntropyOptions o{
            .z_loss = 0.01, .chunk = chunk, .keep_gradients = keeps, .reduction = reduction};
        const auto found = step(x, w, b, [&](const auto& x, const auto& w, const auto& b) {
          return reduced(linear_cross_entropy(x, w, b, uneven_targets(), o, uneven_weights()));
        });
        EXPECT_NEAR(found.loss, expected.loss, 1e-11);
        for (std::size_t k = 0; k < 3; ++k)
          for (Index i = 0; i < expected.gradients[k].size(); ++i)
            EXPECT_NEAR(found.gradients[k][i], expected.gradients[k][i], 1e-11) << "operand " << k;
      }
  }
}

TEST(LinearCrossEntropy, IsZeroWhenNoTokenCounts) {
  for (const Index tokens : {0, 5}) {
    const auto found = step(random_tensor<float>({tokens, 4}, 1), random_tensor<float>({4, 6}, 2),
                            random_tensor<float>({6}, 3), [&](const auto& x, const auto& w, const auto& b) {
                              return linear_cross_entropy(x, w, b, Ids({tokens}, -1), {.chunk = 2});
                            });
    EXPECT_EQ(found.loss, 0.0F);
    for (const Tensor<float>& gradient : found.gradients)
      for (Index i = 0; i < gradient.size(); ++i) EXPECT_EQ(gradient[i], 0.0F);
  }
}

TEST(LinearCrossEntropy, IsTheSameForAnyNumberOfThreads) {
  const auto x = random_tensor<float>({600, 33}, 1), w = random_tensor<float>({1031, 33}, 2);
  const auto b = random_tensor<float>({1031}, 3);
  Ids targets({600});
  for (Index i = 0; i < 600; ++i) targets.write()[i] = static_cast<std::int32_t>(7 * i % 1031);
  const auto with = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const auto result = step(x, w, b, [&](const auto& x, const auto& w, const auto& b) {
      return linear_cross_entropy(x, w, b, targets, {.transposed = true, .chunk = 100});
    });
    omp_set_num_threads(before);
    return result;
  };
  const auto one = with(1);
  for (const int threads : {2, 3}) {
    const auto many = with(threads);
    EXPECT_EQ(one.loss, many.loss);
    for (std::size_t k = 0; k < 3; ++k) EXPECT_TRUE(same_bits(one.gradients[k], many.gradients[k])) << k;
  }
}

TEST(LinearCrossEntropy, HoldsTheLogitsOfOneChunk) {
  constexpr Index tokens = 3000, d = 2, classes = 1024;
  const auto peak = [&](Index chunk) {
    const auto found = step(random_tensor<float>({tokens, d}, 1), random_tensor<float>({d, classes}, 2),
                            Tensor<float>({classes}, 0.0F), [&](const auto& x, const auto& w, const auto&) {
                              return linear_cross_entropy(x, w, {}, Ids({tokens}, 1), {.chunk = chunk});
                            });
    return found.stats.peak_bytes;
  };
  // The gradient of x, log_sum_exp in two parts, the loss and its gradient are there too.
  constexpr std::size_t others = sizeof(float) * tokens * (d + 2) + 2 * 64 + 64;
  EXPECT_LE(peak(100), sizeof(float) * 100 * classes + others);
  EXPECT_GE(peak(100), sizeof(float) * 100 * classes);
  EXPECT_LE(peak(tokens), sizeof(float) * tokens * classes + others);
  EXPECT_LE(peak(0), (std::size_t{8} << 20) + others);
  EXPECT_GE(peak(0), std::size_t{5} << 20);
}

TEST(LinearCrossEntropy, CountsTheProductsItMakes) {
  constexpr double product = 2.0 * 7 * 5 * 9;
  const auto flops = [&](bool wants_x, bool wants_w, bool wants_b) {
    Tape tape;
    const auto x = tape.input(random_tensor<float>({7, 5}, 1), {.wants_gradient = wants_x});
    const auto w = tape.input(random_tensor<float>({5, 9}, 2), {.wants_gradient = wants_w});
    const auto b = tape.input(random_tensor<float>({9}, 3), {.wants_gradient = wants_b});
    tape.backward(linear_cross_entropy(x, w, b, uneven_targets(), {.chunk = 3}));
    EXPECT_EQ(tape.stats().forward_flops, product);
    return tape.stats().backward_flops;
  };
  EXPECT_EQ(flops(true, true, true), 3 * product);
  EXPECT_EQ(flops(true, false, false), 2 * product);
  EXPECT_EQ(flops(false, true, false), 2 * product);
  EXPECT_EQ(flops(false, false, true), product);
}

// Of several uses, of a loss that is scaled, and added to gradients that are there.
TEST(LinearCrossEntropy, GradientsKeptFromForwardAreThoseOfBackward) {
  const auto x = random_tensor<double>({7, 5}, 1), w = random_tensor<double>({5, 9}, 2),
             b = random_tensor<double>({9}, 3);
  const auto run = [&](bool keeps) {
    return step(x, w, b, [&](const auto& x, const auto& w, const auto& b) {
      const LinearCrossEntropyOptions options{.chunk = 3, .keep_gradients = keeps};
      return linear_cross_entropy(x, w, b, uneven_targets(), options) * 3.0 +
             linear_cross_entropy(square(x), w, b, uneven_targets(), options, uneven_weights());
    });
  };
  const auto again = run(false), kept = run(true);
  EXPECT_EQ(kept.loss, again.loss);
  for (std::size_t k = 0; k < 3; ++k)
    for (Index i = 0; i < again.gradients[k].size(); ++i)
      EXPECT_NEAR(kept.gradients[k][i], again.gradients[k][i], 1e-14) << "operand " << k;
  constexpr double product = 2.0 * 7 * 5 * 9;
  EXPECT_EQ(again.stats.forward_flops + again.stats.backward_flops, 8 * product);
  EXPECT_EQ(kept.stats.forward_flops + kept.stats.backward_flops, 6 * product);
  // Of each use, what backward reads: kept gradients, or x, log-sum-exp, targets and weights, of which x is an input.
  EXPECT_EQ(kept.stats.saved_bytes, 2 * sizeof(double) * (7 * 5 + 5 * 9 + 9));
}

// Neither does the head lose the logarithm of a sum beside large logits, whoever makes its gradients and when.
TEST(LinearCrossEntropy, IsExactHoweverLargeLogitsAre) {
  constexpr Index tokens = 5, classes = 9;
  const Ids targets({tokens}, {0, 8, 3, -1, 2});
  for (const double shift : {0.0, 30.0, 1e2, 1e3, 1e4, 1e6, -1e9})
    for (const bool keeps : {false, true}) {
      SCOPED_TRACE(testing::Message() << "near " << shift << ", gradients kept " << keeps);
      // Logits are x + b: whole numbers, which float holds as far as 1e6, and beyond that all are `shift`.
      Tensor<float> x({tokens, 1}), w({1, classes}), b({classes});
      for (Index i = 0; i < tokens; ++i) x.write()[i] = static_cast<float>(i % 2);
      for (Index j = 0; j < classes; ++j) w.write()[j] = static_cast<float>(j % 3);
      for (Index j = 0; j < classes; ++j) b.write()[j] = static_cast<float>(shift + static_cast<double>(j % 4));
      const auto found = step(x, w, b, [&](const auto& x, const auto& w, const auto& b) {
        return linear_cross_entropy(x, w, b, targets, {.chunk = 2, .keep_gradients = keeps});
      });
      double loss = 0;
      std::vector<double> db(static_cast<std::size_t>(classes)), dw = db;
      for (Index i = 0; i < tokens; ++i) {
        if (targets[i] < 0) continue;
        const auto logit = [&](Index j) { return static_cast<double>(x[i] * w[j] + b[j]); };
        double top = -INFINITY, sum = 0, dx = 0;
        for (Index j = 0; j < classes; ++j) top = std::max(top, logit(j));
        for (Index j = 0; j < classes; ++j) sum += std::exp(logit(j) - top);
        loss += (std::log(sum) + top - logit(targets[i])) / 4;
        for (Index j = 0; j < classes; ++j) {
          const double slope = (std::exp(logit(j) - top) / sum - (j == targets[i] ? 1 : 0)) / 4;
          db[static_cast<std::size_t>(j)] += slope;
          dw[static_cast<std::size_t>(j)] += slope * static_cast<double>(x[i]);
          dx += slope * static_cast<double>(w[j]);
        }
        EXPECT_NEAR(found.gradients[0][i], dx, 2e-7);
      }
      EXPECT_NEAR(found.loss, loss, 1e-6 * loss);
      for (Index j = 0; j < classes; ++j) {
        EXPECT_NEAR(found.gradients[1][j], dw[static_cast<std::size_t>(j)], 2e-7);
        EXPECT_NEAR(found.gradients[2][j], db[static_cast<std::size_t>(j)], 2e-7);
      }
    }
}

TEST(LinearCrossEntropy, KeepsNoGradientsThatNobodyWants) {
  Tape tape({.mode = Mode::evaluate});
  linear_cross_entropy(tape.input(random_tensor<float>({7, 5}, 1)), random_tensor<float>({5, 9}, 2), {},
                       uneven_targets(), {.keep_gradients = true});
  EXPECT_EQ(tape.stats().forward_flops, 2.0 * 7 * 5 * 9);
}

TEST(LinearCrossEntropy, IsADotThatPoliciesKeep) {
  for (const bool keeps : {false, true}) {
    Tape tape;
    const auto x = tape.input(random_tensor<float>({7, 5}, 1), {.wants_gradient = true});
    const auto w = tape.input(random_tensor<float>({5, 9}, 2));
    const auto loss = tape.checkpoint(keeps ? policy::dots : policy::nothing, [&] {
      return linear_cross_entropy(square(x), w, {}, uneven_targets(), {.chunk = 3});
    });
    tape.backward(loss);
    EXPECT_EQ(tape.stats().replayed_by_op.contains("linear_cross_entropy"), !keeps);
    EXPECT_TRUE(tape.stats().replayed_by_op.contains("square"));
  }
}

// 1025 rows are summed in 61 blocks, the 1024 of the last chunk in 64.
TEST(LinearCrossEntropy, AShortLastChunkStaysWithinItsScratch) {
  using remat_test::Buffer, remat_test::OpBench;
  const Spec x{DType::float64, {2049, 1}}, w{DType::float64, {1, 2}}, b{DType::float64, {2}};
  const Spec targets{DType::int32, {2049}};
  const ops::LinearCrossEntropy<double> op({.chunk = 1025});
  OpBench bench(op, {{x, true, true, {}}, {w, true, true, {}}, {b, true, true, {}}, {targets, true, false, {}}, {}},
                {Buffer(x, 0.5), Buffer(w, 0.25), Buffer(b, 1), Buffer(targets, Ids({2049}, 1).data()), Buffer({})});
  std::vector<Buffer> outputs = bench.forward(0);
  bench.backward(outputs, OpBench::Undeclared::value, {true, true, true, false, false});  // looks behind the scratch
}

TEST(LinearCrossEntropy, RefusesWhatDoesNotFit) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 3, 5}, 0.0F));
  const Tensor<float> w({5, 9}, 0.0F);
  const Ids targets({2, 3}, 0);
  const auto error = [&](const LinearCrossEntropyOptions& options) {
    return error_of([&] { linear_cross_entropy(x, w, {}, targets, options); });
  };
  EXPECT_EQ(error({.transposed = true}), "linear_cross_entropy: x has 5 features, w expects 9");
  EXPECT_EQ(error({.chunk = -1}), "linear_cross_entropy: chunk -1 is not >= 0 (0: chosen by size)");
  EXPECT_EQ(error({.keep_gradients = true, .reduction = Reduction::none}),
            "linear_cross_entropy: keep_gradients makes gradients in forward, but with Reduction::none they depend on "
            "the gradient of each token's loss: drop keep_gradients, or take Reduction::mean or Reduction::sum");
  EXPECT_EQ(error({.label_smoothing = 1}), "linear_cross_entropy: label_smoothing 1 is not in [0, 1)");
  EXPECT_EQ(error_of([&] { linear_cross_entropy(x, w, {}, Ids({6}, 0)); }),
            "linear_cross_entropy: targets have shape [6], logits of shape [2, 3, 9] need [2, 3]");
  EXPECT_EQ(error_of([&] { linear_cross_entropy(x, w, {}, targets, {}, Tensor<float>({3}, 1.0F)); }),
            "linear_cross_entropy: weights have shape [3], targets [2, 3]");
  EXPECT_EQ(error_of([&] {
              linear_cross_entropy(x, w, {}, Ids({2, 3}, {0, 1, 2, 3, 9, 5}), {.chunk = 2});
            }),
            "linear_cross_entropy: target 9 at [1, 1], but logits have 9 classes");
}

}  // namespace
