// Ring attention gives what attention of whole sequences gives: values, gradients, masks of dropout.
#include <algorithm>
#include <cmath>
#include <remat/remat.hpp>
#include <string>
#include <vector>

#include "ranks.hpp"

namespace {

using namespace remat;
using remat_test::world;

/// Random whole numbers, the same on all ranks.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : stream_{.seed = seed} {}
  Index below(Index limit) { return static_cast<Index>(stream_.word(next_++)) % limit; }
  bool one_in(Index times) { return below(times) == 0; }
  Index of(const std::vector<Index>& choices) {
    return choices[static_cast<std::size_t>(below(static_cast<Index>(choices.size())))];
  }

 private:
  RandomStream stream_;
  std::uint64_t next_ = 0;
};

template <class T>
Tensor<T> normals(const Shape& shape, std::uint64_t seed) {
  std::vector<T> values;
  for (Index i = 0; i < shape.size(); ++i)
    values.push_back(static_cast<T>(RandomStream{.seed = seed}.normal(static_cast<std::uint64_t>(i))));
  return Tensor<T>(shape, std::span<const T>(values));
}
Tensor<std::int32_t> integers(const Shape& shape, Index limit, Dice& dice) {
  std::vector<std::int32_t> values;
  for (Index i = 0; i < shape.size(); ++i) values.push_back(static_cast<std::int32_t>(dice.below(limit)));
  return {shape, std::span<const std::int32_t>(values)};
}

/// One call of attention, whole.
struct Case {
  std::string text{};
  Index batch = 1, queries = 8, keys = 8, heads = 2, kv_heads = 1, dims = 4;
  bool is_combined = false;  // by attention_qkv
  AttentionOptions options{};
  bool has_sinks = false;
  Index buckets = 0;
  Tensor<std::int32_t> key_lengths{}, prefix_lengths{}, query_offsets{}, query_segments{}, key_segments{}, positions{};
};

Case random_case(std::uint64_t seed, int ranks) {
  Dice dice(seed);
  Case c{.text = "case " + std::to_string(seed)};
  const Index parts = 2 * Index{ranks};
  c.batch = 1 + dice.below(3);
  c.kv_heads = 1 + dice.below(2), c.heads = c.kv_heads * (1 + dice.below(3)), c.dims = dice.of({2, 6, 16});
  c.queries = parts * dice.of({1, 3, 8, 17, 40}), c.keys = dice.one_in(3) ? parts * dice.of({1, 5, 33}) : c.queries;
  c.is_combined = c.queries == c.keys && dice.one_in(2);
  AttentionOptions& o = c.options;
  o.causal = !dice.one_in(3);
  if (dice.one_in(3)) o.window = 1 + dice.below(c.keys), o.window_right = dice.one_in(2) ? 1 + dice.below(9) : 0;
  if (dice.one_in(4)) o.soft_cap = 3;
  if (dice.one_in(4)) o.scale = 0.3;
  if (dice.one_in(4)) o.offset = dice.below(9) - 3;
  if (dice.one_in(4)) o.key_chunk = dice.of({1, 7, 64}), o.query_chunk = dice.of({0, 5, 100});
  if (dice.one_in(2)) o.dropout = 0.3;
  if (dice.one_in(4)) o.alibi = true, o.alibi_form = dice.one_in(2) ? AlibiForm::bfloat16_key_position : o.alibi_form;
  c.has_sinks = dice.one_in(3);
  if (dice.one_in(4)) c.buckets = 8, o.relative_max_distance = 20;
  const Shape rows{c.batch};
  if (dice.one_in(3)) c.key_lengths = integers(rows, c.keys + 1, dice);
  if (dice.one_in(4)) c.prefix_lengths = integers(rows, c.keys + 1, dice);
  if (dice.one_in(3) && o.alibi_form == AlibiForm::distance) {
    c.query_segments = integers({c.batch, c.queries}, 2, dice);
    if (c.queries != c.keys || dice.one_in(2)) c.key_segments = integers({c.batch, c.keys}, 2, dice);
  }
  if (dice.one_in(4)) {
    o.rotary_base = 100, o.key_position = dice.below(5), o.rotary_interleaved = dice.one_in(2);
    if (c.queries == c.keys && dice.one_in(2)) c.positions = integers({c.batch, c.queries}, 50, dice);
  } else if (dice.one_in(4)) {
    c.query_offsets = integers(rows, 9, dice);
  }
  return c;
}

/// What a rank has of a call: all of it, or its part.
template <class T>
struct Outcome {
  Tensor<T> y, dq, dk, dv;  // of the combined form dq alone
  Tensor<Accum<T>> sinks, relative_bias;
};

template <class T>
Outcome<T> run(const Case& c, const distributed::ContextParallel& context) {
  Tape tape({.seed = 9, .step = 4, .first_row = 2, .rows = c.batch, .ring = context.ring()});
  dropout(tape.input(Tensor<float>({c.batch, 3}, 1.0F)), 0.5);  // another random op before it
  const auto given = [&](const Shape& shape, std::uint64_t seed) {
    return tape.input(context.part(normals<T>(shape, seed)), {.wants_gradient = true});
  };
  const auto number = [&](const Shape& shape, std::uint64_t seed) {
    return tape.input(normals<Accum<T>>(shape, seed), {.wants_gradient = true});
  };
  AttentionMasks<T> masks;
  const auto by_row = [](auto& mask, const Tensor<std::int32_t>& all) {
    if (all.size() > 0) mask = all;
  };
  const auto by_token = [&](auto& mask, const Tensor<std::int32_t>& all) {
    if (all.size() > 0) mask = context.part(all);
  };
  by_row(masks.key_lengths, c.key_lengths), by_row(masks.prefix_lengths, c.prefix_lengths);
  by_row(masks.query_offsets, c.query_offsets);
  by_token(masks.query_segments, c.query_segments), by_token(masks.key_segments, c.key_segments);
  by_token(masks.positions, c.positions);
  Var<Accum<T>> sinks, table;
  if (c.has_sinks) masks.sinks = sinks = number({c.heads}, 21);
  if (c.buckets > 0) masks.relative_bias = table = number({c.buckets, c.heads}, 22);
  Outcome<T> outcome;
  const auto finish = [&](const Var<T>& y) {
    tape.keep(y);
    const Shape whole{c.batch, c.queries, c.heads * c.dims};
    const auto weights = tape.input(context.part(normals<T>(whole, 31)));
    tape.backward(sum(y.reshape(weights.shape()) * weights));
    outcome.y = y.value().reshape(weights.shape()).copy();
    if (c.has_sinks) outcome.sinks = tape.grad(sinks).copy();
    if (c.buckets > 0) outcome.relative_bias = tape.grad(table).copy();
  };
  if (c.is_combined) {
    const auto x = given({c.batch, c.queries, (c.heads + 2 * c.kv_heads) * c.dims}, 1);
    finish(attention_qkv(x, c.heads, c.kv_heads, c.options, masks));
    outcome.dq = tape.grad(x).copy();
  } else {
    const auto q = given({c.batch, c.queries, c.heads, c.dims}, 1);
    const Shape keys{c.batch, c.keys, c.kv_heads, c.dims};
    const auto k = given(keys, 2), v = given(keys, 3);
    finish(attention(q, k, v, c.options, masks));
    outcome.dq = tape.grad(q).copy(), outcome.dk = tape.grad(k).copy(), outcome.dv = tape.grad(v).copy();
  }
  return outcome;
}

/// The largest difference, in units of the largest number or of 1.
template <class T>
double distance(const Tensor<T>& a, const Tensor<T>& b) {
  if (a.shape() != b.shape()) return std::numeric_limits<double>::infinity();
  double worst = 0, largest = 1;
  for (Index i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    if (!(std::abs(x - y) <= worst)) worst = std::abs(x - y);
    largest = std::max(largest, std::abs(y));
  }
  return worst / largest;
}

template <class T>
void expect_one_ranks(const Case& c, double tolerance) {
  const distributed::ContextParallel context(world()), alone;
  const Outcome<T> mine = run<T>(c, context), whole = run<T>(c, alone);
  const auto expect = [&](const char* what, const auto& part, const auto& all) {
    if (all.size() == 0) return;
    EXPECT_LE(distance(part, context.part(all)), tolerance) << c.text << ": " << what;
  };
  expect("context", mine.y, whole.y), expect("dq", mine.dq, whole.dq);
  expect("dk", mine.dk, whole.dk), expect("dv", mine.dv, whole.dv);
  // Of all pairs: most of such a sum cancels out.
  const auto expect_sum = [&](const char* what, const auto& part, const auto& all) {
    if (all.size() == 0) return;
    auto sum = part.copy();
    world().sum(sum.write());
    EXPECT_LE(distance(sum, all), 4 * tolerance) << c.text << ": " << what;
  };
  expect_sum("sinks", mine.sinks, whole.sinks), expect_sum("relative_bias", mine.relative_bias, whole.relative_bias);
}

TEST(Ring, GivesWhatOneRankGivesInRandomConfigurations) {
  for (std::uint64_t seed = 0; seed < 64; ++seed) {
    const Case c = random_case(seed, world().size());
    expect_one_ranks<double>(c, 1e-12);
    if (seed % 4 == 0) expect_one_ranks<float>(c, 1e-6);
    if (seed % 8 == 1) expect_one_ranks<bfloat16>(c, 2e-2);
  }
}

// More rows than one message carries: two, and then one.
TEST(Ring, TakesSeveralTurnsForManyRows) {
  Dice dice(7);
  Case c{.text = "many rows", .batch = 3, .heads = 8, .kv_heads = 8, .dims = 256};
  c.queries = c.keys = 32 * world().size();
  c.options = {.causal = true, .dropout = 0.3};
  c.has_sinks = true;
  c.key_lengths = integers({c.batch}, c.keys + 1, dice);
  c.query_segments = integers({c.batch, c.queries}, 2, dice);
  expect_one_ranks<double>(c, 1e-12);
  if (world().size() > 2) return;  // long by now, and no other way
  c.is_combined = true, c.heads = c.kv_heads = 16, c.dims = 512;
  expect_one_ranks<bfloat16>(c, 2e-2);
}

// Where scores are large, a log-sum-exp without what rounding leaves out of it would be off by as much as they are.
TEST(Ring, MergesLargeScoresExactly) {
  Case c{.text = "large scores", .batch = 2, .heads = 2, .kv_heads = 2, .dims = 16};
  c.queries = c.keys = 36 * world().size();
  c.options = {.causal = true, .scale = 100.0};
  expect_one_ranks<float>(c, 1e-6);
  expect_one_ranks<double>(c, 1e-12);
}

}  // namespace
