// Every option of attention, alone and in 500 random combinations, against loops over doubles that say what it is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <remat/nn/attention.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/rotary.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using nn::AttentionConfig;
using remat_test::expect_error;
using remat_test::random_tensor;
using Rows = std::vector<double>;  // row-major

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// What transformers computes; of the first options `transformers.modeling_rope_utils` gave the numbers below.
double frequency(const AttentionConfig& c, Index j, Index pairs) {
  const RotaryScalingOptions& s = c.rotary_scaling;
  const double plain = std::pow(c.rotary_base, -static_cast<double>(j) / static_cast<double>(pairs)),
               pi = std::acos(-1.0);
  const auto context = static_cast<double>(s.original_context);
  switch (s.kind) {
    case RotaryScaling::none: return plain;
    case RotaryScaling::linear: return plain / s.factor;
    case RotaryScaling::longrope: return plain / s.factors[at(j)];
    case RotaryScaling::proportional: return c.rotary_dims > 0 && j >= c.rotary_dims / 2 ? 0 : plain / s.factor;
    case RotaryScaling::llama3: {
      const double turns = context * plain / (2 * pi);
      if (turns < s.low_frequency_factor) return plain / s.factor;
      if (turns > s.high_frequency_factor) return plain;
      const double smooth = (turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor);
      return (1 - smooth) * plain / s.factor + smooth * plain;
    }
    case RotaryScaling::yarn: {
      const auto dims = static_cast<double>(2 * pairs);
      const auto correction = [&](double turns) {
        return dims * std::log(context / (turns * 2 * pi)) / (2 * std::log(c.rotary_base));
      };
      double low = correction(s.beta_fast), high = correction(s.beta_slow);
      if (s.truncate) low = std::floor(low), high = std::ceil(high);
      low = std::max(low, 0.0), high = std::min(high, dims - 1);
      if (low == high) high += 0.001;
      const double ramp = std::min(1.0, std::max(0.0, (static_cast<double>(j) - low) / (high - low)));
      return plain / s.factor * ramp + plain * (1 - ramp);
    }
  }
  return 0;
}

void turn(const AttentionConfig& c, double* head, std::int32_t position) {
  if (c.rotary_base == 0) return;
  const bool is_whole = c.rotary_scaling.kind == RotaryScaling::proportional || c.rotary_dims == 0;
  const Index pairs = (is_whole ? c.head_dims : c.rotary_dims) / 2;
  const double amplitude = ops::rotary_amplitude(c.rotary_scaling);
  for (Index j = 0; j < pairs; ++j) {
    const double angle = position * frequency(c, j, pairs);
    double &a = head[c.rotary_interleaved ? 2 * j : j], &b = head[c.rotary_interleaved ? 2 * j + 1 : j + pairs];
    const double x = a, y = b;
    a = amplitude * (x * std::cos(angle) - y * std::sin(angle));
    b = amplitude * (y * std::cos(angle) + x * std::sin(angle));
  }
}

/// T5's bucket of key - query, as Raffel et al. (2020) say it.
Index bucket_of(const AttentionConfig& c, Index distance) {
  const Index side = c.causal ? 0 : c.relative_buckets / 2, count = c.relative_buckets - side, exact = count / 2;
  const Index far = c.causal ? std::max<Index>(-distance, 0) : std::abs(distance), first = distance > 0 ? side : 0;
  if (far < exact) return first + far;
  const double share = std::log(static_cast<double>(far) / static_cast<double>(exact)) /
                       std::log(static_cast<double>(c.relative_max_distance) / static_cast<double>(exact));
  return first + std::min(count - 1, exact + static_cast<Index>(share * static_cast<double>(count - exact)));
}

/// What a call may see, as numbers; empty: not given.
struct Seen {
  std::vector<std::int32_t> lengths, segments, prefixes, positions;
};

Rows product(const Rows& x, Index rows, const Tensor<double>& w, const Parameter<double>& b) {
  const Index from = w.shape()[0], to = w.shape()[1];
  Rows y(at(rows * to));
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < to; ++j) {
      double sum = b ? b.value()[j] : 0;
      for (Index k = 0; k < from; ++k) sum += x[at(i * from + k)] * w[k * to + j];
      y[at(i * to + j)] = sum;
    }
  return y;
}
void normalize(const std::optional<nn::RmsNorm<double>>& norm, Rows& x) {
  if (!norm) return;
  const Tensor<double> scale = norm->scale.value();
  const Index width = scale.size();
  for (Index i = 0; i < static_cast<Index>(x.size()); i += width) {
    double mean = 0;
    for (Index j = 0; j < width; ++j) mean += x[at(i + j)] * x[at(i + j)] / static_cast<double>(width);
    for (Index j = 0; j < width; ++j)
      x[at(i + j)] *=
          (norm->scale_is == nn::NormScale::weight ? scale[j] : 1 + scale[j]) / std::sqrt(mean + norm->epsilon);
  }
}

/// The layer's result for x [B, T, D], by loops.
Rows plain(const nn::MultiHeadAttention<double>& layer, const Tensor<double>& x, const Seen& seen) {
  const AttentionConfig& c = layer.config;
  const Index B = x.shape()[0], T = x.shape()[1], N = c.num_heads, K = c.num_kv_heads, H = c.head_dims,
              V = c.value_head_dims;
  const Rows in(x.begin(), x.end());
  Rows q, k, v;
  if (layer.qkv) {
    const Rows all = product(in, B * T, layer.qkv->w.value(), layer.qkv->b);
    const Index width = (N + 2 * K) * H;
    for (Index i = 0; i < B * T; ++i) {
      const double* row = all.data() + i * width;
      q.insert(q.end(), row, row + N * H), k.insert(k.end(), row + N * H, row + (N + K) * H);
      v.insert(v.end(), row + (N + K) * H, row + width);
    }
  } else {
    q = product(in, B * T, layer.query->w.value(), layer.query->b);
    k = product(in, B * T, layer.key->w.value(), layer.key->b);
    v = product(in, B * T, layer.value->w.value(), layer.value->b);
  }
  normalize(layer.query_norm, q), normalize(layer.key_norm, k);
  for (Index i = 0; i < B * T; ++i) {
    const std::int32_t position = seen.positions.empty() ? static_cast<std::int32_t>(i % T) : seen.positions[at(i)];
    for (Index n = 0; n < N; ++n) turn(c, q.data() + (i * N + n) * H, position);
    for (Index n = 0; n < K; ++n) turn(c, k.data() + (i * K + n) * H, position);
  }
  const double scale = c.scale.value_or(1 / std::sqrt(static_cast<double>(H)));
  const Index right = c.window_right > 0 ? c.window_right : c.window;
  Rows context(at(B * T * N * V));
  for (Index b = 0; b < B; ++b)
    for (Index n = 0; n < N; ++n)
      for (Index t = 0; t < T; ++t) {
        std::vector<double> weights(at(T), -std::numeric_limits<double>::infinity());
        double top = layer.sinks ? layer.sinks.value()[n] : -std::numeric_limits<double>::infinity();
        for (Index s = 0; s < T; ++s) {
          if (c.causal && s > t && (seen.prefixes.empty() || s >= seen.prefixes[at(b)])) continue;
          if (c.window > 0 && (t - s >= c.window || s - t >= right)) continue;
          if (!seen.lengths.empty() && s >= seen.lengths[at(b)]) continue;
          if (!seen.segments.empty() && seen.segments[at(b * T + t)] != seen.segments[at(b * T + s)]) continue;
          double score = 0;
          for (Index i = 0; i < H; ++i)
            score += scale * q[at(((b * T + t) * N + n) * H + i)] * k[at(((b * T + s) * K + n / (N / K)) * H + i)];
          if (c.soft_cap > 0) score = c.soft_cap * std::tanh(score / c.soft_cap);
          if (c.alibi)
            score -= std::pow(2, -8.0 * static_cast<double>(n + 1) / static_cast<double>(N)) *
                     static_cast<double>(std::abs(t - s));
          if (c.relative_buckets > 0) score += layer.relative_bias.value()[bucket_of(c, s - t) * N + n];
          weights[at(s)] = score, top = std::max(top, score);
        }
        double sum = layer.sinks ? std::exp(layer.sinks.value()[n] - top) : 0;
        for (double& w : weights) sum += w = std::isinf(w) ? 0 : std::exp(w - top);
        for (Index s = 0; s < T && sum > 0; ++s)
          for (Index i = 0; i < V; ++i)
            context[at(((b * T + t) * N + n) * V + i)] +=
                weights[at(s)] / sum * v[at(((b * T + s) * K + n / (N / K)) * V + i)];
      }
  if (layer.gate) {
    const Rows gate = product(in, B * T, layer.gate->w.value(), layer.gate->b);
    for (std::size_t i = 0; i < context.size(); ++i) context[i] /= 1 + std::exp(-gate[i]);
  }
  return product(context, B * T, layer.out->w.value(), layer.out->b);
}

void expect_plain(const AttentionConfig& config, const Seen& seen, std::uint64_t seed) {
  constexpr Index B = 2, T = 6;
  ParameterRegistry parameters(seed);
  const nn::MultiHeadAttention<double> layer(parameters / "a", config);
  for (const auto& entry : parameters.entries())
    if (entry->value.shape.rank() == 1)  // biases, scales and sinks begin as constants
      Parameter<double>(entry).set_value(random_tensor<double>(entry->value.shape, seed + entry->path.size()));
  const Tensor<double> x = random_tensor<double>({B, T, config.model_dims}, seed);
  const auto tensor = [](const std::vector<std::int32_t>& of, const Shape& shape) -> Like<std::int32_t> {
    if (of.empty()) return {};
    return Tensor<std::int32_t>(shape, std::span<const std::int32_t>(of));
  };
  AttentionMasks<double> masks;
  masks.key_lengths = tensor(seen.lengths, {B}), masks.query_segments = tensor(seen.segments, {B, T});
  masks.prefix_lengths = tensor(seen.prefixes, {B}), masks.positions = tensor(seen.positions, {B, T});
  Tape tape({.mode = Mode::evaluate});
  const Tensor<double> y = layer(tape.input(x), masks).value();
  const Rows expected = plain(layer, x, seen);
  ASSERT_EQ(static_cast<std::size_t>(y.size()), expected.size());
  for (Index i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[at(i)], 1e-11 * (1 + std::abs(expected[at(i)]))) << i;
}

struct Change {
  const char* name;
  std::function<void(AttentionConfig&, Seen&)> apply;
};
const Change changes[] = {
    {"not causal", [](auto& c, auto&) { c.causal = false; }},
    {"grouped", [](auto& c, auto&) { c.num_kv_heads = 2; }},
    {"head_dims", [](auto& c, auto&) { c.head_dims = 6; }},
    {"combined", [](auto& c, auto&) { c.combined_qkv = true; }},
    {"no bias", [](auto& c, auto&) { c.bias = false; }},
    {"out_bias", [](auto& c, auto&) { c.out_bias = !c.bias; }},
    {"window", [](auto& c, auto&) { c.window = 3; }},
    {"window_right", [](auto& c, auto&) { c.causal = false, c.window = 2, c.window_right = 4; }},
    {"soft_cap", [](auto& c, auto&) { c.soft_cap = 0.7; }},
    {"scale", [](auto& c, auto&) { c.scale = 0.3; }},
    {"rotary", [](auto& c, auto&) { c.rotary_base = 100; }},
    {"rotary of a part", [](auto& c, auto&) { c.rotary_base = 100, c.rotary_dims = 2; }},
    {"interleaved", [](auto& c, auto&) { c.rotary_base = 50, c.rotary_interleaved = true; }},
    {"linear",
     [](auto& c, auto&) {
       c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::linear, 3};
     }},
    {"llama3",
     [](auto& c, auto&) {
       c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::llama3, 8, 1, 4, 16};
     }},
    {"yarn",
     [](auto& c, auto&) {
       c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::yarn, 4, 1, 4, 64};
     }},
    {"yarn not truncated",
     [](auto& c, auto&) {
       c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::yarn, 4, 1, 4, 64};
       c.rotary_scaling.truncate = false, c.rotary_scaling.attention_factor = 0.9;
     }},
    {"longrope",
     [](auto& c, auto&) {
       c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::longrope, 4, 1, 4, 64};
     }},
    {"proportional",
     [](auto& c, auto&) {
       c.rotary_base = 100, c.rotary_dims = 2, c.rotary_scaling = {RotaryScaling::proportional, 2};
     }},
    {"alibi", [](auto& c, auto&) { c.alibi = true; }},
    {"relative", [](auto& c, auto&) { c.relative_buckets = 8, c.relative_max_distance = 5; }},
    {"norm of each head", [](auto& c, auto&) { c.query_key_norm = nn::QueryKeyNorm::each_head; }},
    {"norm of the projection",
     [](auto& c, auto&) {
       c.query_key_norm = nn::QueryKeyNorm::whole_projection;
       c.query_key_norm_scale = nn::NormScale::one_plus_weight;
     }},
    {"sinks", [](auto& c, auto&) { c.sinks = true; }},
    {"output_gate", [](auto& c, auto&) { c.output_gate = true; }},
    {"narrow values", [](auto& c, auto&) { c.value_head_dims = 3; }},
    {"wide values", [](auto& c, auto&) { c.value_head_dims = 7; }},
    {"padding",
     [](auto&, auto& seen) {
       seen.lengths = {4, 0};
     }},
    {"segments", [](auto&, auto& seen) { seen.segments = {0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4}; }},
    {"prefix",
     [](auto& c, auto& seen) {
       c.causal = true, seen.prefixes = {3, 0};
     }},
    {"positions", [](auto&, auto& seen) { seen.positions = {0, 1, 0, 1, 2, 0, 7, 3, 900, 4, 2, 1}; }},
};
/// What two changes leave that does not hold together.
void make_whole(AttentionConfig& c) {
  if (c.combined_qkv) c.value_head_dims = 0;
  if (c.causal) c.window_right = 0;
  if (c.rotary_base == 0) c.rotary_dims = 0;
  if (c.rotary_scaling.kind != RotaryScaling::longrope) c.rotary_scaling.factors.clear();
  const Index head = c.head_dims == 0 ? c.model_dims / c.num_heads : c.head_dims;
  if (c.rotary_scaling.kind == RotaryScaling::longrope) {
    c.rotary_scaling.factors.clear();
    for (Index j = 0; j < (c.rotary_dims == 0 ? head : c.rotary_dims) / 2; ++j)
      c.rotary_scaling.factors.push_back(1 + 0.5 * static_cast<double>(j));
  }
}

TEST(AttentionOptionsOfALayer, AreWhatLoopsOverDoublesSay) {
  for (const Change& change : changes) {
    SCOPED_TRACE(change.name);
    AttentionConfig config{.model_dims = 16, .num_heads = 4};
    Seen seen;
    change.apply(config, seen), make_whole(config);
    expect_plain(config, seen, 3);
  }
}

TEST(AttentionOptionsOfALayer, InFiveHundredCombinationsAreWhatLoopsOverDoublesSay) {
  const RandomStream random{.seed = 21};
  std::uint64_t drawn = 0;
  for (std::uint64_t round = 0; round < 500; ++round) {
    AttentionConfig config{.model_dims = 16, .num_heads = 4};
    Seen seen;
    std::string names;
    for (int i = 0; i < 5; ++i) {
      const Change& change = changes[random.word(drawn++) % std::size(changes)];
      change.apply(config, seen);
      names += std::string(change.name) + ", ";
    }
    make_whole(config);
    SCOPED_TRACE(names);
    ASSERT_NO_FATAL_FAILURE(expect_plain(config, seen, round));
  }
}

// Numbers of transformers 5.24, modeling_rope_utils, in float.
TEST(RotaryScaling, FrequenciesAreThoseOfTransformers) {
  const auto expect = [](const RotaryScalingOptions& scaling, Index dims, const std::vector<double>& expected,
                         double amplitude) {
    AttentionOptions options;
    options.rotary_base = 10000, options.rotary_dims = dims, options.rotary_scaling = scaling;
    auto p = ops::attention_problem<double>(1, 1, options);
    p.head_dims = 16;
    EXPECT_NEAR(p.rotary_amplitude, amplitude, 1e-15);
    for (std::size_t j = 0; j < expected.size(); ++j)
      EXPECT_NEAR(kernels::attention::rotary_frequency(p, static_cast<Index>(j), 8), expected[j], 3e-7 * expected[j]);
  };
  RotaryScalingOptions yarn{RotaryScaling::yarn, 8, 1, 4, 512};
  expect(yarn, 0,
         {1.0, 0.247052938, 0.0562500022, 0.01087033, 0.00124999997, 0.000395284733, 0.000125000006, 3.95284733e-05},
         1.2079441541679836);
  yarn.truncate = false, yarn.beta_fast = 16, yarn.beta_slow = 2;
  expect(yarn, 0,
         {1.0, 0.316227764, 0.0716084614, 0.00732499827, 0.00124999997, 0.000395284733, 0.000125000006, 3.95284733e-05},
         1.2079441541679836);
  RotaryScalingOptions longrope{RotaryScaling::longrope, 8, 1, 4, 512};
  longrope.factors = {1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7};
  expect(longrope, 0,
         {1.0, 0.287479758, 0.0833333358, 0.0243252143, 0.00714285718, 0.00210818532, 0.000624999986, 0.000186016332},
         1.1547005383792515);
  expect({RotaryScaling::proportional, 2}, 4, {0.5, 0.158113882, 0, 0, 0, 0, 0, 0}, 1);
}

// Shifting all positions changes no score, of any kind.
TEST(RotaryScaling, ScoresSeeDistancesAlone) {
  for (const Change& change : changes) {
    AttentionConfig config{.model_dims = 16, .num_heads = 4};
    Seen seen;
    change.apply(config, seen), make_whole(config);
    if (config.rotary_base == 0) continue;
    SCOPED_TRACE(change.name);
    ParameterRegistry parameters(3);
    const nn::MultiHeadAttention<double> layer(parameters / "a", config);
    Tape tape({.mode = Mode::evaluate});
    const auto x = tape.input(random_tensor<double>({2, 3, 16}, 5));
    const Tensor<double> here = layer(x).value(),
                         there = layer(x, {.positions = Tensor<std::int32_t>({2, 3}, {70, 71, 72, 5, 6, 7})}).value();
    for (Index i = 0; i < here.size(); ++i) EXPECT_NEAR(here[i], there[i], 1e-11);
  }
}

// By Raffel et al.'s code, of distances key - query.
TEST(RelativeBias, ReadsT5sBucketOfEachDistance) {
  const auto buckets = [](bool causal, Index count, const std::vector<Index>& distances) {
    std::vector<Index> found;
    for (const Index distance : distances) {
      ParameterRegistry parameters;
      AttentionConfig config{.model_dims = 1, .num_heads = 1, .causal = causal, .relative_buckets = count};
      config.relative_max_distance = 8;
      const nn::MultiHeadAttention<double> layer(parameters / "a", config);
      for (const nn::Linear<double>* each : {&*layer.query, &*layer.key})
        each->w.set_value(Tensor<double>({1, 1}, {0.0}));
      for (const nn::Linear<double>* each : {&*layer.value, &*layer.out})
        each->w.set_value(Tensor<double>({1, 1}, {1.0}));
      Tensor<double> table({count, 1});
      for (Index i = 0; i < count; ++i) table.write()[i] = 0.1 * static_cast<double>(i);
      layer.relative_bias.set_value(table);
      const Index length = 40, query = 20, key = query + distance;
      Tensor<double> x({1, length, 1}, 0.0);
      x.write()[key] = 1;
      std::vector<std::int32_t> segments(length, 2);  // the query sees itself and the key
      segments[at(query)] = segments[at(key)] = 1;
      Tape tape({.mode = Mode::evaluate});
      const Tensor<std::int32_t> ids({1, length}, std::span<const std::int32_t>(segments));
      // A key behind a causal query is seen by a prefix.
      const Tensor<double> y =
          layer(tape.input(x), {.query_segments = ids, .prefix_lengths = Tensor<std::int32_t>({1}, {length})}).value();
      if (distance == 0) {
        found.push_back(0);  // alone it is seen whatever its bias is
        EXPECT_NEAR(y[query], 1, 1e-14);
        continue;
      }
      const double share = y[query];  // softmax of the bias and that of distance 0, which is in bucket 0
      found.push_back(std::llround(10 * std::log(share / (1 - share))));
    }
    return found;
  };
  EXPECT_EQ(buckets(false, 8, {5, 2, 0, 12, -3, -1, -15, 1}), (std::vector<Index>{7, 6, 0, 7, 2, 1, 3, 5}));
  EXPECT_EQ(buckets(true, 4, {5, 2, 0, 12, -3, -1, -15}), (std::vector<Index>{0, 0, 0, 0, 2, 1, 3}));
}

// As in T5 the layers of a stack read one table, to which all of them give a gradient; of two stacks each has its own.
TEST(RelativeBias, IsSharedByTheLayersThatCarryOneId) {
  ParameterRegistry parameters(3);
  AttentionConfig config{.model_dims = 8, .num_heads = 2, .relative_buckets = 6};
  config.relative_shared_weight_id = "positions";
  const nn::MultiHeadAttention<double> first(parameters / "a", config), second(parameters / "b", config);
  const nn::MultiHeadAttention<double> own(parameters / "c", {.model_dims = 8, .num_heads = 2, .relative_buckets = 6});
  EXPECT_EQ(first.relative_bias.entry(), second.relative_bias.entry());
  EXPECT_NE(first.relative_bias.entry(), own.relative_bias.entry());
  EXPECT_EQ(own.relative_bias.path(), "c/relative_bias/table");
  EXPECT_EQ(first.relative_bias.shape(), (Shape{6, 2}));
  // Of a loss that is linear in what both give.
  const auto gradient = [&](const nn::MultiHeadAttention<double>* one, const nn::MultiHeadAttention<double>* two) {
    Tape tape;
    const auto x = tape.input(random_tensor<double>({2, 5, 8}, 4));
    auto y = (*one)(x);
    if (two != nullptr) y = y + (*two)(x);
    tape.backward(sum(y));
    const Tensor<double> found = first.relative_bias.grad().copy();
    for (const auto& entry : parameters.entries()) Parameter<double>(entry).zero_grad();
    return found;
  };
  const auto a = gradient(&first, nullptr), b = gradient(&second, nullptr), both = gradient(&first, &second);
  for (Index i = 0; i < both.size(); ++i) EXPECT_NEAR(both[i], a[i] + b[i], 1e-12);
  config.relative_buckets = 4;
  expect_error({"shared/positions", "[4, 2]", "[6, 2]"},
               [&] { nn::MultiHeadAttention<double>(parameters / "d", config); });
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 5, 8}, 4));
  expect_error({"a: has a table of relative biases, and was given another"}, [&] {
    first(x, {.relative_bias = Tensor<double>({6, 2}, 0.0)});
  });
  expect_error({"a: window, rotary_base, alibi and relative_buckets are of self attention"}, [&] { first(x, x); });
}

TEST(AttentionOptionsOfALayer, ThatDoNotHoldTogetherAreRefused) {
  const auto refuse = [](std::initializer_list<std::string_view> parts, auto&& change) {
    AttentionConfig c{.model_dims = 16, .num_heads = 4};
    change(c);
    ParameterRegistry parameters;
    expect_error(parts, [&] { nn::MultiHeadAttention<float>(parameters / "net", c); });
    EXPECT_EQ(parameters.entries().size(), 0U);
  };
  refuse({"net: window_right 3", "set window"}, [](auto& c) { c.causal = false, c.window_right = 3; });
  refuse({"net: window_right 3", "causal"}, [](auto& c) { c.window = 3, c.window_right = 3; });
  refuse({"net: window_right", "-1"}, [](auto& c) { c.window_right = -1; });
  refuse({"net: value_head_dims 3", "combined_qkv = false"},
         [](auto& c) { c.value_head_dims = 3, c.combined_qkv = true; });
  refuse({"net: value_head_dims", "-3"}, [](auto& c) { c.value_head_dims = -3; });
  refuse({"net: rotary_interleaved", "rotary_base"}, [](auto& c) { c.rotary_interleaved = true; });
  refuse({"net: fused = false", "sinks"}, [](auto& c) { c.fused = false, c.sinks = true; });
  refuse({"net: fused = false", "relative_buckets"}, [](auto& c) { c.fused = false, c.relative_buckets = 8; });
  refuse({"net: relative_buckets 1", "2 or more"}, [](auto& c) { c.relative_buckets = 1; });
  refuse({"net: relative_buckets 5", "even number"}, [](auto& c) { c.causal = false, c.relative_buckets = 5; });
  refuse({"net: relative_buckets must be >= 0, got -8"}, [](auto& c) { c.relative_buckets = -8; });
  refuse({"net: relative_max_distance 4 lies within the 4 buckets"},
         [](auto& c) { c.relative_buckets = 8, c.relative_max_distance = 4; });
  refuse({"net: relative_max_distance", "set relative_buckets"}, [](auto& c) { c.relative_max_distance = 64; });
  refuse({"net: relative_max_distance and relative_shared_weight_id", "set relative_buckets"},
         [](auto& c) { c.relative_shared_weight_id = "one"; });
  refuse({"net: rotary_scaling has 3 factors for 2 pairs"}, [](auto& c) {
    c.rotary_base = 100, c.rotary_scaling.kind = RotaryScaling::longrope;
    c.rotary_scaling.factors = {1, 2, 3};
  });
  refuse({"net: rotary_scaling.factors are of longrope"},
         [](auto& c) { c.rotary_base = 100, c.rotary_scaling.kind = RotaryScaling::longrope; });
  refuse({"net: rotary_scaling.factors are of longrope"}, [](auto& c) {
    c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::yarn, 2};
    c.rotary_scaling.factors = {1, 2};
  });
  refuse({"net: rotary_scaling.factors must be > 0"}, [](auto& c) {
    c.rotary_base = 100, c.rotary_scaling.kind = RotaryScaling::longrope;
    c.rotary_scaling.factors = {1, 0};
  });
  refuse({"net: rotary_scaling.beta_fast"}, [](auto& c) {
    c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::yarn, 2};
    c.rotary_scaling.beta_fast = 1;
  });
  refuse({"net: rotary_scaling.attention_factor"}, [](auto& c) {
    c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::yarn, 2};
    c.rotary_scaling.attention_factor = 0;
  });
  refuse({"net: rotary_scaling.original_context"}, [](auto& c) {
    c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::yarn, 2, 1, 4, 0};
  });
}

}  // namespace
