#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <ops/try_op.hpp>
#include <remat/ops/attention.hpp>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::random_tensor, remat_test::weigh;

/// The formula, one query at a time. q [B, T, N, H], k and v [B, S, K, H].
Tensor<double> reference(const Tensor<double>& q, const Tensor<double>& k, const Tensor<double>& v,
                         const AttentionOptions& options) {
  const Shape &qs = q.shape(), &ks = k.shape();
  const Index queries = qs[1], keys = ks[1], heads = qs[2], dims = qs[3], group = heads / ks[2];
  const Index offset = options.offset.value_or(keys - queries);
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(dims)));
  Tensor<double> out(qs, 0.0);
  for (Index row = 0; row < qs[0] * queries * heads; ++row) {
    const Index b = row / (queries * heads), t = row / heads % queries, kv = row % heads / group;
    const Index visible = options.causal ? std::clamp<Index>(t + offset + 1, 0, keys) : keys;
    const auto key = [&](Index s) { return ((b * keys + s) * ks[2] + kv) * dims; };
    double total = 0;
    for (Index s = 0; s < visible; ++s) {
      double score = 0;
      for (Index h = 0; h < dims; ++h) score += q[row * dims + h] * k[key(s) + h];
      const double weight = std::exp(score * scale);
      total += weight;
      for (Index h = 0; h < dims; ++h) out.write()[row * dims + h] += weight * v[key(s) + h];
    }
    for (Index h = 0; h < dims && visible > 0; ++h) out.write()[row * dims + h] /= total;
  }
  return out;
}

TEST(Attention, Values) {
  const auto k = random_tensor<double>({2, 9, 2, 5}, 2), v = random_tensor<double>({2, 9, 2, 5}, 3);
  for (const Index queries : {7, 12}) {
    const auto q = random_tensor<double>({2, queries, 4, 5}, 1);
    for (const AttentionOptions& options :
         {AttentionOptions{}, AttentionOptions{.causal = true}, AttentionOptions{.causal = true, .offset = 0},
          AttentionOptions{.causal = true, .offset = -3, .scale = 0.3}}) {
      Tape tape;
      const auto y = attention(tape.input(q), tape.input(k), tape.input(v), options).value();
      const auto expected = reference(q, k, v, options);
      ASSERT_EQ(y.shape(), expected.shape());
      for (Index i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], 1e-13);
    }
  }
}

TEST(Attention, FusedProjectionIsThreeApart) {
  constexpr Index batch = 2, length = 7, heads = 4, kv_heads = 2, dims = 3;
  const auto x = random_tensor<float>({batch, length, (heads + 2 * kv_heads) * dims}, 1);
  Tensor<float> q({batch, length, heads, dims}), k({batch, length, kv_heads, dims}), v(k.shape());
  for (Index i = 0; i < batch * length; ++i) {
    const float* token = x.data() + i * 24;
    std::copy_n(token, 12, q.write().data() + i * 12);
    std::copy_n(token + 12, 6, k.write().data() + i * 6);
    std::copy_n(token + 18, 6, v.write().data() + i * 6);
  }
  const AttentionOptions options{.causal = true, .dropout = 0.2};
  Tape fused({.seed = 4, .step = 0}), apart({.seed = 4, .step = 0});
  const auto qkv = fused.input(x, {.wants_gradient = true});
  const auto y = attention_qkv(qkv, heads, kv_heads, options);
  const auto qs = apart.input(q, {.wants_gradient = true}), ks = apart.input(k, {.wants_gradient = true});
  const auto vs = apart.input(v, {.wants_gradient = true});
  const auto z = attention(qs, ks, vs, options);
  EXPECT_EQ(y.shape(), (Shape{batch, length, heads * dims}));
  EXPECT_TRUE(same_bits(y.value(), z.value().reshape(y.shape())));
  fused.backward(weigh(y));
  apart.backward(weigh(z));
  for (Index i = 0; i < batch * length; ++i) {
    for (Index j = 0; j < 24; ++j) {
      const float expected = j < 12   ? apart.grad(qs)[i * 12 + j]
                             : j < 18 ? apart.grad(ks)[i * 6 + j - 12]
                                      : apart.grad(vs)[i * 6 + j - 18];
      EXPECT_EQ(fused.grad(qkv)[i * 24 + j], expected);
    }
  }
}

TEST(Attention, CountsVisiblePairs) {
  const auto stats_of = [](const AttentionOptions& options, bool wants_q, bool wants_v) {
    Tape tape;
    const auto q = tape.input(random_tensor<float>({2, 3, 4, 5}, 1), {.wants_gradient = wants_q});
    const auto k = tape.input(random_tensor<float>({2, 6, 2, 5}, 2), {.wants_gradient = wants_q});
    const auto v = tape.input(random_tensor<float>({2, 6, 2, 5}, 3), {.wants_gradient = wants_v});
    tape.backward(weigh(attention(q, k, v, options)));
    return tape.stats();
  };
  const double pair = 2.0 * 5 * 2 * 4;  // one product, over the heads of all batch entries
  EXPECT_EQ(stats_of({}, true, true).forward_flops, 2 * 18 * pair);
  EXPECT_EQ(stats_of({}, true, true).backward_flops, 5 * 18 * pair);
  EXPECT_EQ(stats_of({}, false, true).backward_flops, 2 * 18 * pair);
  EXPECT_EQ(stats_of({.causal = true}, true, true).forward_flops, 2 * (4 + 5 + 6) * pair);
  EXPECT_EQ(stats_of({.causal = true, .offset = -1}, true, true).forward_flops, 2 * (0 + 1 + 2) * pair);
}

TEST(Attention, ContextIsKeptWithItsLogSumExp) {
  const auto stats_of = [](const Policy& policy) {
    Tape tape;
    const auto x = tape.input(random_tensor<float>({2, 16, 48}, 1), {.wants_gradient = true});
    const auto y =
        tape.checkpoint(policy, [&] { return checkpoint_name(attention_qkv(x, 4, 4, {.causal = true}), "context"); });
    tape.backward(weigh(y));
    return tape.stats();
  };
  const TapeStats kept = stats_of(policy::names("context")), replayed = stats_of(policy::nothing);
  EXPECT_EQ(kept.ops_replayed, 0);
  EXPECT_EQ(kept.saved_bytes, (2 * 16 * 16 + 2 * (2 * 4 * 16)) * sizeof(float));
  EXPECT_EQ(replayed.ops_replayed, 1);
}

TEST(Attention, RefusesMoreThreadsThanItHasScratchFor) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  Tape tape;
  const auto x = tape.input(random_tensor<float>({2, 7, 24}, 1), {.wants_gradient = true});
  const auto loss = weigh(attention_qkv(x, 4, 2));
  omp_set_num_threads(3);
  EXPECT_EQ(error_of([&] { tape.backward(loss); }),
            "attention: recorded with 1 threads, now run with 3; set their number before recording");
  omp_set_num_threads(before);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  Tape tape;
  const auto of = [&](const Shape& shape) { return tape.input(Tensor<float>(shape, 0.0F)); };
  const auto message = [&](const Shape& q, const Shape& k, const Shape& v, double dropout = 0) {
    return error_of([&] { attention(of(q), of(k), of(v), {.dropout = dropout}); });
  };
  EXPECT_EQ(message({2, 7, 20}, {2, 7, 4, 5}, {2, 7, 4, 5}),
            "attention: q has shape [2, 7, 20], [B, T, N, H] is needed");
  EXPECT_EQ(message({2, 7, 4, 5}, {2, 7, 4, 6}, {2, 7, 4, 5}),
            "attention: k has shape [2, 7, 4, 6], q of shape [2, 7, 4, 5] needs [2, S, K, 5]");
  EXPECT_EQ(message({2, 7, 4, 5}, {2, 7, 4, 5}, {2, 8, 4, 5}),
            "attention: v has shape [2, 8, 4, 5], k has [2, 7, 4, 5]");
  EXPECT_EQ(message({2, 7, 4, 5}, {2, 7, 3, 5}, {2, 7, 3, 5}),
            "attention: q has 4 heads, not a multiple of the 3 of k");
  EXPECT_EQ(message({2, 7, 4, 5}, {2, 7, 2, 5}, {2, 7, 2, 5}, 1.5), "attention: dropout rate 1.5 is not in [0, 1)");
  EXPECT_EQ(error_of([&] {
              attention_qkv(of({2, 7, 20}), 4, 3);
            }),
            "attention: 4 query heads are not a positive multiple of 3 key/value heads");
  EXPECT_EQ(error_of([&] {
              attention_qkv(of({2, 7, 20}), 4, 2);
            }),
            "attention: qkv has shape [2, 7, 20], 4 query and 2 x 2 key and value heads need [B, T, a multiple of 8]");
}

}  // namespace
