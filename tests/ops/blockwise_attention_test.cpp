// Attention whose queries come in chunks: the same values, gradients and dropout masks as all at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/blockwise.hpp>
#include <remat/ops/reduce.hpp>

namespace {

using namespace remat;

constexpr Index batch = 2, length = 37, heads = 4, kv_heads = 2, width = 6;

Tensor<double> values(const Shape& shape, std::uint64_t seed) {
  Tensor<double> tensor(shape);
  const RandomStream random{seed, 0, 0};
  for (Index i = 0; i < tensor.size(); ++i) tensor.write()[i] = random.normal(static_cast<std::uint64_t>(i));
  return tensor;
}

struct Outcome {
  Tensor<double> y, dq, dk, dv;
};

Outcome run(Index chunk, const Policy& policy, AttentionOptions options) {
  Tape tape({.seed = 9, .step = 0});
  const auto q = tape.input(values({batch, length, heads, width}, 1), {.wants_gradient = true});
  const auto k = tape.input(values({batch, length, kv_heads, width}, 2), {.wants_gradient = true});
  const auto v = tape.input(values({batch, length, kv_heads, width}, 3), {.wants_gradient = true});
  const auto look = [&](const Var<double>& part, Index offset) {
    options.offset = offset;
    return attention(part, k, v, options);
  };
  const auto y = chunk == 0 ? look(q, 0) : blockwise(q, 1, chunk, policy, look);
  tape.keep(y);
  tape.backward(sum(y * tape.input(values(q.shape(), 4))));
  return {y.value(), tape.grad(q), tape.grad(k), tape.grad(v)};
}

double distance(const Tensor<double>& a, const Tensor<double>& b) {
  double worst = 0;
  for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

TEST(BlockwiseAttention, EqualsAllQueriesAtOnce) {
  for (const AttentionOptions& options :
       {AttentionOptions{.causal = true}, AttentionOptions{}, AttentionOptions{.causal = true, .dropout = 0.3},
        AttentionOptions{.causal = true, .window = 9}, AttentionOptions{.causal = true, .rotary_base = 10000},
        AttentionOptions{.causal = true, .dropout = 0.3, .alibi = true}}) {
    const Outcome whole = run(0, policy::everything, options);
    for (const Index chunk : {1, 8, 36, 37, 50}) {
      const Outcome parts = run(chunk, policy::nothing, options);
      EXPECT_LE(distance(parts.y, whole.y), 1e-13) << chunk;
      EXPECT_LE(distance(parts.dq, whole.dq), 1e-13) << chunk;
      EXPECT_LE(distance(parts.dk, whole.dk), 1e-12) << chunk;
      EXPECT_LE(distance(parts.dv, whole.dv), 1e-12) << chunk;
    }
  }
}

TEST(BlockwiseAttention, PolicyChangesNoBit) {
  const AttentionOptions options{.causal = true, .dropout = 0.3};
  const Outcome kept = run(8, policy::everything, options), again = run(8, policy::nothing, options);
  EXPECT_TRUE(same_bits(kept.y, again.y) && same_bits(kept.dq, again.dq) && same_bits(kept.dk, again.dk) &&
              same_bits(kept.dv, again.dv));
}

}  // namespace
