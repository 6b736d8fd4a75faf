// Options and masks on their way through the op: the kernel's own tests say what they mean.
#include <gtest/gtest.h>

#include <kernels/attention_reference.hpp>
#include <limits>
#include <ops/try_op.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/softmax.hpp>

namespace {

using namespace remat;
using namespace remat_test;

struct Values {
  Tensor<double> y;
  std::vector<Tensor<double>> gradients;
};
using Vars = std::vector<Var<double>>;

Values values_of(const std::vector<Tensor<double>>& inputs, const std::function<Var<double>(const Vars&)>& fn,
                 bool replayed = false) {
  Tape tape({.seed = 4, .step = 0});
  Vars x;
  for (const auto& each : inputs) x.push_back(tape.input(each, {.wants_gradient = true}));
  const Var<double> y = replayed ? tape.checkpoint(policy::nothing, [&] { return fn(x); }) : fn(x);
  Values values{y.value(), {}};
  tape.backward(weigh(y));
  for (const auto& each : x) values.gradients.push_back(tape.grad(each));
  return values;
}

void expect_near(const Values& a, const Values& b, double tolerance = 1e-12) {
  const auto compare = [&](const Tensor<double>& x, const Tensor<double>& y) {
    ASSERT_EQ(x.size(), y.size());
    for (Index i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], tolerance);
  };
  compare(a.y, b.y);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (std::size_t i = 0; i < a.gradients.size(); ++i) compare(a.gradients[i], b.gradients[i]);
}

constexpr Index batch = 2, length = 9, heads = 4, kv_heads = 2, dims = 6;

std::vector<Tensor<double>> inputs(Index queries = length) {
  return {random_tensor<double>({batch, queries, heads, dims}, 1),
          random_tensor<double>({batch, length, kv_heads, dims}, 2),
          random_tensor<double>({batch, length, kv_heads, dims}, 3)};
}

// Asking for weights changes a context by rounding alone, whatever is masked, dropout included; and they are what the
// values were multiplied by.
TEST(AttentionWeights, AreThoseOfTheFusedOp) {
  struct Case {
    AttentionOptions options;
    AttentionMasks<double> masks;
  };
  const Tensor<std::int32_t> lengths({batch}, {5, 9}), offsets({batch}, {0, 3}), prefixes({batch}, {4, 0}),
      segments({batch, length}, {0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 1, 0, 1, 0, 1, 0, 1, 0});
  const auto bias = random_tensor<double>({1, heads, length, 1}, 7), head_mask = random_tensor<double>({heads}, 8);
  const std::vector<Case> cases{{{}, {}},
                                {{.causal = true, .dropout = 0.3}, {}},
                                {{.scale = 0.3, .dropout = 0.3, .soft_cap = 0.7}, {.key_lengths = lengths}},
                                {{.causal = true, .dropout = 0.2, .window = 3}, {.query_segments = segments}},
                                {{.causal = true}, {.prefix_lengths = prefixes, .head_mask = head_mask}},
                                {{.causal = true, .offset = -4}, {}},
                                {{.causal = true}, {.bias = bias, .query_offsets = offsets}}};
  for (const Case& c : cases) {
    const auto fused =
        values_of(inputs(), [&](const Vars& x) { return attention(x[0], x[1], x[2], c.options, c.masks); });
    const auto plain = values_of(inputs(), [&](const Vars& x) {
      AttentionMasks<double> masks = c.masks;
      Var<double> weights;
      masks.weights = &weights;
      const auto context = attention(x[0], x[1], x[2], c.options, masks);
      const Tensor<double> w = weights.value(), v = x[2].value(), y = context.value();
      EXPECT_EQ(w.shape(), (Shape{batch, heads, length, length}));
      for (Index t = 0; t < length; ++t) {
        double sum = 0;
        for (Index s = 0; s < length; ++s) sum += w(1, 3, t, s) * v(1, s, 1, 2);
        EXPECT_NEAR(sum, y(1, t, 3, 2), 1e-12);
      }
      return context;
    });
    expect_near(fused, plain);
  }
}

// What exists whole only cannot be had of a part, and what the plain formula lacks is refused by name.
TEST(AttentionWeights, AreRefusedWhereTheyCannotBe) {
  Tape tape;
  const auto x = inputs();
  const auto q = tape.input(x[0]), k = tape.input(x[1]), v = tape.input(x[2]);
  Var<double> weights;
  const auto sinks = random_tensor<double>({heads}, 4), table = random_tensor<double>({8, heads}, 5);
  const char* const said = "neither rotary nor ALiBi, relative biases or sinks";
  const auto refuses = [&](const AttentionOptions& options, AttentionMasks<double> masks) {
    masks.weights = &weights;
    EXPECT_NE(error_of([&] { attention(q, k, v, options, masks); }).find(said), std::string::npos);
  };
  refuses({.rotary_base = 100}, {});
  refuses({.alibi = true}, {});
  refuses({}, {.relative_bias = table});
  refuses({}, {.sinks = sinks});
  EXPECT_NE(error_of([&] { attention(q, k, v, {}, {.head_mask = table}); }).find("head_mask has shape [8, 4], [4]"),
            std::string::npos);
}

/// What an additive bias of 0 and -infinity says by itself.
Tensor<double> bias_of(Index queries, const std::function<bool(Index, Index, Index)>& sees) {
  Tensor<double> bias({batch, 1, queries, length});
  for (Index b = 0; b < batch; ++b)
    for (Index t = 0; t < queries; ++t)
      for (Index s = 0; s < length; ++s)
        bias.write()[(b * queries + t) * length + s] = sees(b, t, s) ? 0 : -std::numeric_limits<double>::infinity();
  return bias;
}

TEST(AttentionMasks, AreTheBiasThatSaysTheSame) {
  const Tensor<std::int32_t> lengths({batch}, {5, 9}), prefixes({batch}, {0, 6});
  const Tensor<std::int32_t> ids({batch, length}, {0, 0, 0, 1, 1, 1, 1, 2, 2, 5, 4, 5, 4, 5, 4, 5, 4, 7});
  const Tensor<std::int32_t> other_ids({batch, length}, {2, 1, 0, 0, 0, 1, 1, 1, 1, 7, 7, 7, 4, 4, 4, 4, 4, 4});
  const auto check = [&](const AttentionOptions& options, const AttentionMasks<double>& masks,
                         const std::function<bool(Index, Index, Index)>& sees) {
    const auto masked = [&](const Vars& x) { return attention(x[0], x[1], x[2], options, masks); };
    const Values values = values_of(inputs(), masked);
    const Tensor<double> bias = bias_of(length, sees);
    expect_near(values,
                values_of(inputs(), [&](const Vars& x) { return attention(x[0], x[1], x[2], {}, {.bias = bias}); }));
    const Values again = values_of(inputs(), masked, true);
    EXPECT_TRUE(same_bits(values.y, again.y) && same_bits(values.gradients[1], again.gradients[1]));
  };
  check({.causal = true}, {}, [](Index, Index t, Index s) { return s <= t; });
  check({.window = 3}, {}, [](Index, Index t, Index s) { return std::abs(s - t) < 3; });
  check({.causal = true, .window = 3}, {}, [](Index, Index t, Index s) { return s <= t && t - s < 3; });
  check({}, {.key_lengths = lengths}, [&](Index b, Index, Index s) { return s < lengths[b]; });
  check({.causal = true}, {.prefix_lengths = prefixes},
        [&](Index b, Index t, Index s) { return s <= t || s < prefixes[b]; });
  check({}, {.query_segments = ids}, [&](Index b, Index t, Index s) { return ids[b * 9 + t] == ids[b * 9 + s]; });
  check({.causal = true}, {.key_lengths = lengths, .query_segments = ids, .key_segments = other_ids},
        [&](Index b, Index t, Index s) { return s <= t && s < lengths[b] && ids[b * 9 + t] == other_ids[b * 9 + s]; });
}

TEST(AttentionMasks, ReachAFusedProjection) {
  auto x = inputs();
  x.push_back(random_tensor<double>({1, heads, length, length}, 4));
  x.push_back(random_tensor<double>({6, heads}, 5));
  const Tensor<std::int32_t> lengths({batch}, {5, 9}),
      ids({batch, length}, {0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 1, 0, 1, 0, 1, 0, 1, 0});
  const AttentionOptions options{.causal = true,
                                 .dropout = 0.2,
                                 .soft_cap = 2,
                                 .query_chunk = 4,
                                 .rotary_base = 100,
                                 .rotary_dims = 4,
                                 .key_position = 7,
                                 .alibi = true,
                                 .relative_max_distance = 5};
  const auto masks = [&](const Vars& v) {
    return AttentionMasks<double>{.key_lengths = lengths, .query_segments = ids, .bias = v[3], .relative_bias = v[4]};
  };
  const Values apart = values_of(x, [&](const Vars& v) {
    return attention(v[0], v[1], v[2], options, masks(v)).reshape({batch, length, heads * dims});
  });
  const Values fused = values_of(x, [&](const Vars& v) {
    const Var<double> qkv =
        concat<double>({v[0], v[1], v[2]}, 2).reshape({batch, length, (heads + 2 * kv_heads) * dims});
    return attention_qkv(qkv, heads, kv_heads, options, masks(v));
  });
  expect_near(fused, apart);
}

TEST(AttentionMasks, PiecesOfQueriesAreTheWhole) {
  // As a caller who runs queries in chunks does it: one mask of dropout, and gradients of keys and values summed up.
  for (const double rate : {0.0, 0.3}) {
    const DropoutMask mask{.stream = {.seed = 8}, .rate = rate};
    using O = ops::Attention<double>;
    const Argument<double> no_bias;
    const Argument<std::int32_t> none;
    const auto piece = [&](const Vars& v, Index begin, Index end) {
      O op({.causal = true, .offset = begin}, mask);
      op.first_query = begin, op.full_queries = length;
      return record(op, slice(v[0], 1, begin, end), v[1], v[2], no_bias, no_bias, none, none, none, none, none,
                    no_bias)[O::context];
    };
    const Values whole = values_of(inputs(), [&](const Vars& v) { return piece(v, 0, length); });
    const Values pieces = values_of(inputs(), [&](const Vars& v) {
      return concat<double>({piece(v, 0, 2), piece(v, 2, 7), piece(v, 7, 9)}, 1);
    });
    expect_near(pieces, whole);
  }
}

TEST(AttentionMasks, CostIsOfVisiblePairs) {
  const auto stats_of = [](const AttentionOptions& options, bool with_bias) {
    Tape tape;
    Vars v;
    for (const auto& each : inputs()) v.push_back(tape.input(each, {.wants_gradient = true}));
    const auto bias = tape.input(random_tensor<double>({1, 1, 1, length}, 4), {.wants_gradient = with_bias});
    tape.backward(weigh(attention(v[0], v[1], v[2], options, {.bias = bias})));
    return tape.stats();
  };
  const double pair = 2.0 * dims * batch * heads;
  EXPECT_EQ(stats_of({.window = 2}, false).forward_flops, 2 * (3 * 9 - 2) * pair);
  EXPECT_EQ(stats_of({.causal = true, .window = 2}, false).forward_flops, 2 * (2 * 9 - 1) * pair);
  EXPECT_EQ(stats_of({.causal = true}, false).backward_flops, 5 * 45 * pair);
  EXPECT_EQ(stats_of({.causal = true}, true).backward_flops, 7 * 45 * pair);
}

TEST(AttentionMasks, RefuseWhatDoesNotFit) {
  Tape tape;
  Vars v;
  for (const auto& each : inputs(7)) v.push_back(tape.input(each));
  const auto message = [&](const AttentionOptions& options, const AttentionMasks<double>& masks = {}) {
    return error_of([&] { attention(v[0], v[1], v[2], options, masks); });
  };
  const auto ids = [](const Shape& shape) { return Tensor<std::int32_t>(shape, 0); };
  const auto of = [](const Shape& shape) { return Tensor<double>(shape, 0.0); };
  EXPECT_EQ(message({.window = -1}), "attention: window -1, query_chunk 0 or key_chunk 0 is negative");
  EXPECT_EQ(message({.soft_cap = -2}), "attention: soft_cap -2 is negative");
  EXPECT_EQ(message({.rotary_base = -2}), "attention: rotary_base -2 is negative");
  EXPECT_EQ(message({.rotary_base = 100, .rotary_dims = 3}),
            "attention: rotary_dims 3 is not an even part of 6 head dims");
  EXPECT_EQ(message({.rotary_base = 100, .rotary_dims = 8}),
            "attention: rotary_dims 8 is not an even part of 6 head dims");
  EXPECT_EQ(message({}, {.key_lengths = ids({3})}), "attention: key_lengths has shape [3], [2] is needed");
  EXPECT_EQ(message({}, {.prefix_lengths = ids({2, 1})}), "attention: prefix_lengths has shape [2, 1], [2] is needed");
  // Numbers that bound keys lie in [0, S]: none is silently clipped.
  const auto lengths = [](std::int32_t last) { return Tensor<std::int32_t>({2}, {9, last}); };
  for (const std::int32_t last : {0, 9}) {
    attention(v[0], v[1], v[2], {}, {.key_lengths = lengths(last)});
    attention(v[0], v[1], v[2], {.causal = true}, {.prefix_lengths = lengths(last)});
  }
  EXPECT_EQ(message({}, {.key_lengths = lengths(10)}), "attention: key length 10 at [1], but there are 9 keys");
  EXPECT_EQ(message({}, {.key_lengths = lengths(-1)}), "attention: key length -1 at [1], but there are 9 keys");
  EXPECT_EQ(message({.causal = true}, {.prefix_lengths = lengths(10)}),
            "attention: prefix length 10 at [1], but there are 9 keys");
  EXPECT_EQ(message({.causal = true}, {.prefix_lengths = lengths(-1)}),
            "attention: prefix length -1 at [1], but there are 9 keys");
  const auto fused = tape.input(of({2, 7, 24}));
  EXPECT_EQ(error_of([&] { attention_qkv(fused, 4, 2, {}, {.key_lengths = lengths(9)}); }),
            "attention: key length 9 at [0], but there are 7 keys");
  // Sums with such positions would overflow.
  constexpr Index far = std::numeric_limits<Index>::max();
  EXPECT_EQ(message({.causal = true, .offset = far}), "attention: offset 9223372036854775807 is not within 2^48 of 0");
  EXPECT_EQ(message({.key_position = -far}), "attention: key_position -9223372036854775807 is not within 2^48 of 0");
  EXPECT_EQ(error_of([&] { attention_blocks(7, 9, {.causal = true, .offset = far}); }),
            "attention_blocks: offset 9223372036854775807 is not within 2^48 of 0");
  EXPECT_EQ(error_of([&] { causal_softmax(v[0], far); }),
            "softmax: offset 9223372036854775807 is not within 2^48 of 0");
  EXPECT_EQ(message({}, {.query_segments = ids({2, 9})}),
            "attention: query_segments has shape [2, 9], [2, 7] is needed");
  EXPECT_EQ(message({}, {.query_segments = ids({2, 7})}),
            "attention: query_segments without key_segments, but 7 queries and 9 keys");
  EXPECT_EQ(message({}, {.key_segments = ids({2, 9})}), "attention: key_segments without query_segments");
  EXPECT_EQ(message({}, {.query_segments = ids({2, 7}), .key_segments = ids({2, 7})}),
            "attention: key_segments has shape [2, 7], [2, 9] is needed");
  EXPECT_EQ(message({}, {.bias = of({7, 9})}),
            "attention: bias has shape [7, 9], [2, 4, 7, 9] with any axis 1 is needed");
  EXPECT_EQ(message({}, {.bias = of({1, 2, 7, 9})}),
            "attention: bias has shape [1, 2, 7, 9], [2, 4, 7, 9] with any axis 1 is needed");
  EXPECT_EQ(message({}, {.relative_bias = of({32, 2})}),
            "attention: relative_bias has shape [32, 2], [buckets, 4] is needed");
  EXPECT_EQ(message({}, {.relative_bias = of({5, 4})}),
            "attention: relative_bias has 5 buckets, an even number from 4 on is needed");
  EXPECT_EQ(message({.causal = true}, {.relative_bias = of({1, 4})}),
            "attention: relative_bias has 1 buckets, 2 or more are needed");
  EXPECT_EQ(message({.relative_max_distance = 8}, {.relative_bias = of({32, 4})}),
            "attention: relative_max_distance 8 lies within the 8 exact buckets");
}

}  // namespace
