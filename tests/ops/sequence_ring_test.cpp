// What ops do on a tape whose sequences are shared by ranks, as far as they need not talk to each other: masks,
// positions, work, plans, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

/// A rank by itself: nothing comes.
struct Alone final : SequenceRing {
  int own, all;
  Alone(int r, int n) : own(r), all(n) {}
  int rank() const override { return own; }
  int size() const override { return all; }
  void pass(std::span<const std::byte>, std::span<std::byte>) override { fail("nobody is there"); }
};
std::shared_ptr<SequenceRing> rank(int own, int all) { return std::make_shared<Alone>(own, all); }

/// Elements of axis 1 of `whole` [B, T, ...] that are a rank's.
Tensor<float> part(const Tensor<float>& whole, const SequenceRing& ring) {
  Shape shape = whole.shape();
  const Index batch = shape[0], tokens = shape[1], inner = shape.size() / (batch * tokens);
  shape[1] /= ring.size();
  const SequencePieces pieces = ring.pieces(shape[1]);
  std::vector<float> values;
  for (Index b = 0; b < batch; ++b)
    for (Index t = 0; t < shape[1]; ++t)
      for (Index i = 0; i < inner; ++i) values.push_back(whole[(b * tokens + pieces[t]) * inner + i]);
  return Tensor<float>(shape, std::span<const float>(values));
}

TEST(SequencePieces, AreDealtOutInZigzag) {
  std::vector<Index> holders(24, -1);
  for (int r = 0; r < 3; ++r) {
    const SequencePieces pieces = rank(r, 3)->pieces(8);
    EXPECT_EQ(pieces.whole(), 24);
    for (Index t = 0; t < 8; ++t) {
      EXPECT_EQ(pieces.token_at(pieces[t]), t);
      EXPECT_EQ(std::exchange(holders[static_cast<std::size_t>(pieces[t])], r), -1);
    }
  }
  EXPECT_EQ(holders, (std::vector<Index>{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(rank(0, 3)->pieces(8).token_at(5), -1);
  expect_error({"7 tokens", "a multiple of 6"}, [] { rank(0, 3)->pieces(7); });
}

constexpr Index batch = 3, length = 48, dims = 10;

/// fn(x) for the whole x, or the rank's part.
template <class Fn>
Tensor<float> run(const Fn& fn, const std::shared_ptr<SequenceRing>& ring) {
  Tape tape({.seed = 5, .step = 2, .first_row = 4, .rows = batch, .ring = ring});
  std::vector<float> values;
  for (Index i = 0; i < batch * length * dims; ++i)
    values.push_back(static_cast<float>(RandomStream{.seed = 3}.normal(static_cast<std::uint64_t>(i))));
  const Tensor<float> whole({batch, length, dims}, std::span<const float>(values));
  return fn(tape.input(ring == nullptr ? whole : part(whole, *ring))).value().copy();
}
template <class Fn>
void expect_parts_of_the_whole(const Fn& fn) {
  const Tensor<float> whole = run(fn, nullptr);
  for (const int ranks : {2, 3, 4})
    for (int r = 0; r < ranks; ++r)
      EXPECT_TRUE(same_bits(run(fn, rank(r, ranks)), part(whole, *rank(r, ranks)))) << r << " of " << ranks;
}

using X = const Var<float>&;
const auto plain = [](X x) { return dropout(x, 0.4); };

TEST(SequenceRing, DrawsTheMasksOfWholeSequences) {
  expect_parts_of_the_whole(plain);
  expect_parts_of_the_whole([](X x) { return dropout(dropout(x, 0.1), 0.4); });
  expect_parts_of_the_whole([](X x) { return activate(x, Activation::gelu, 0.4); });
  expect_parts_of_the_whole([](X x) { return skip_layer_norm(x, x, 0.4).sum; });
  expect_parts_of_the_whole([](X x) { return jitter(x, 0.4); });
  expect_parts_of_the_whole([](X x) { return drop_path(x, 0.5); });
  expect_parts_of_the_whole([](X x) {
    return plain(x.reshape({batch, x.shape()[1], 2, dims / 2})).reshape(x.shape());
  });
}

// Chunks that end within a piece, at its end, and across both.
TEST(SequenceRing, DrawsTheMasksOfWholeSequencesInChunks) {
  for (const Index chunk : {1, 5, 6, 8, 100}) {
    for (const int axis : {0, 1})
      expect_parts_of_the_whole([=](X x) {
        return blockwise(x, axis, chunk, policy::nothing, [](X some, Index) { return dropout(some, 0.4); });
      });
  }
  expect_error({"cut one of these"}, [] {
    run([](X x) { return blockwise(x, 2, 5, policy::nothing, [](X some, Index) { return dropout(some, 0.4); }); },
        rank(0, 2));
  });
}

// Where tokens cannot be told, no rank repeats what another draws.
TEST(SequenceRing, OtherValuesDrawMasksOfTheirOwn) {
  const auto mask = [](const std::shared_ptr<SequenceRing>& ring) {
    Tape tape({.seed = 5, .step = 2, .ring = ring});
    return dropout(tape.input(Tensor<float>({4, 50}, 1.0F)), 0.5).value().copy();
  };
  const auto word = [](int r) { return Tape({.seed = 5, .step = 2, .ring = rank(r, 3)}).next_random().word(0); };
  for (int r = 0; r < 3; ++r)
    for (int other = 0; other < r; ++other) {
      EXPECT_FALSE(same_bits(mask(rank(r, 3)), mask(rank(other, 3))));
      EXPECT_NE(word(r), word(other));
    }
}

TEST(SequenceRing, CountsPositionsInWholeSequences) {
  Tensor<float> rows({60, dims});
  for (Index i = 0; i < rows.size(); ++i) rows.write()[static_cast<std::size_t>(i)] = static_cast<float>(i % 97);
  const Tensor<float> table = rows.copy();
  expect_parts_of_the_whole([&](X x) { return add_positions(x, table, 7); });
  expect_parts_of_the_whole([](X x) {
    return rotary(x.reshape({batch, x.shape()[1], 1, dims}), {.offset = 3}).reshape(x.shape());
  });
  const auto gradient = [&](const std::shared_ptr<SequenceRing>& ring) {
    Tape tape({.ring = ring});
    const auto learned = tape.input(table, {.wants_gradient = true});
    const Index tokens = ring == nullptr ? length : length / ring->size();
    tape.backward(sum(add_positions(tape.input(Tensor<float>({batch, tokens, dims}, 0.5F)), learned, 7)));
    return tape.grad(learned).copy();
  };
  const Tensor<float> all = gradient(nullptr);
  std::vector<float> sum(static_cast<std::size_t>(all.size()));
  for (int r = 0; r < 3; ++r) {
    const Tensor<float> own = gradient(rank(r, 3));
    for (Index i = 0; i < own.size(); ++i) sum[static_cast<std::size_t>(i)] += own[i];
  }
  EXPECT_EQ(sum, std::vector<float>(all.begin(), all.end()));
  expect_error({"positions [20, 68)", "60 rows"},
               [&] { run([&](X x) { return add_positions(x, table, 20); }, rank(0, 2)); });
}

/// Of attention [1, T, N, H] of one rank: flops, which go by pairs that see each other, and tiles with such a pair.
struct Work {
  double flops, tiles;
};
Work work_of(int own, int ranks, Index tokens, const AttentionOptions& options) {
  Tape tape({.ring = rank(own, ranks), .mode = Mode::plan});
  const auto x = tape.input(Tensor<float>({1, tokens / ranks, 2, 8}));
  attention(x, x, x, options);
  Work work{tape.stats().forward_flops, 0};
  const SequencePieces pieces = rank(own, ranks)->pieces(tokens / ranks);
  for (const Index piece : {pieces.first, pieces.second})
    for (Index keys = 0; keys < pieces.count; ++keys) {
      AttentionOptions pair = options;
      pair.offset = (piece - keys) * pieces.length;
      work.tiles += static_cast<double>(attention_blocks(pieces.length, pieces.length, pair).visible);
    }
  return work;
}

TEST(RingAttention, SharesTheWorkOfCausalSequencesEvenly) {
  constexpr Index tokens = 16384;
  for (const AttentionOptions& options : {AttentionOptions{.causal = true}, AttentionOptions{}}) {
    Tape tape({.mode = Mode::plan});
    const auto x = tape.input(Tensor<float>({1, tokens, 2, 8}));
    attention(x, x, x, options);
    for (const int ranks : {2, 4, 8}) {
      double sum = 0, least = 1e300, most = 0, least_tiles = 1e300, most_tiles = 0;
      for (int r = 0; r < ranks; ++r) {
        const Work work = work_of(r, ranks, tokens, options);
        sum += work.flops;
        least = std::min(least, work.flops), most = std::max(most, work.flops);
        least_tiles = std::min(least_tiles, work.tiles), most_tiles = std::max(most_tiles, work.tiles);
      }
      EXPECT_LE(most, 1.1 * least) << ranks;
      EXPECT_LE(most_tiles, 1.1 * least_tiles) << ranks;
      EXPECT_DOUBLE_EQ(sum, tape.stats().forward_flops);
    }
  }
}

TEST(RingAttention, RefusesByNameWhatItCannotHave) {
  const auto refused = [](std::initializer_list<std::string_view> parts, const auto& call) {
    expect_error(parts, [&] {
      Tape tape({.ring = rank(1, 2), .mode = Mode::plan});
      call(tape.input(Tensor<float>({2, 6, 4, 2})));
    });
  };
  refused({"bias", "relative_bias"}, [](X x) { attention(x, x, x, {}, {.bias = Tensor<float>({1, 1, 6, 12}, 0.0F)}); });
  refused({"plain_attention", "masks.weights"}, [](X x) {
    Var<float> weights;
    attention(x, x, x, {}, {.weights = &weights});
  });
  refused({"3 tokens", "a multiple of 4"}, [](X x) {
    const auto odd = x.reshape({4, 3, 4, 2});
    attention(odd, odd, odd);
  });
  refused({"inside blockwise", "ffn_chunk"},
          [](X x) { blockwise(x, 1, 3, policy::nothing, [&](X queries, Index) { return attention(queries, x, x); }); });
  refused({"mine", "its functions call attention", "call it outside"}, [](X x) {
    custom_gradient<float>(
        "mine", {x}, [](Tape&, const std::vector<Var<float>>& in) { return attention(in[0], in[0], in[0]); },
        [](const CustomBackward<float>& of) { return std::vector<Var<float>>{of.gradient}; });
  });
  const auto whole = [](X x, auto&& fn) { blockwise(x, 1, 3, policy::nothing, fn); };
  refused({"rotary: inside blockwise", "give positions"},
          [&](X x) { whole(x, [](X part, Index) { return rotary(part); }); });
  refused({"add_positions: inside blockwise", "call it outside"}, [&](X x) {
    whole(x, [](X part, Index) { return add_positions<float>(part, Tensor<float>({24, 2}, 0.5F)); });
  });
  Tape begun({.seed = 1});
  sum(begun.input(Tensor<float>({2}, 1.0F)));
  expect_error({"set_ring", "before the first op"}, [&] { begun.set_ring(rank(0, 2)); });
}

TEST(RingAttention, LayersRefuseWhatIsOfWholeSequences) {
  ParameterRegistry parameters(1);
  const nn::MultiHeadAttention<float> attention(parameters / "attention",
                                                {.model_dims = 8, .num_heads = 2, .causal = true});
  Tape tape({.ring = rank(0, 2), .mode = Mode::evaluate});
  nn::KeyValueCache<float> cache(16);
  typename nn::KeyValueCache<float>::Layer layer;
  const auto x = tape.input(Tensor<float>({1, 4, 8}, 0.5F));
  expect_error({"attention", "TapeOptions::ring"}, [&] { attention.decode(x, layer); });
  const nn::MultiHeadAttention<float> slow(parameters / "slow", {.model_dims = 8, .num_heads = 2, .fused = false});
  expect_error({"plain_attention"}, [&] { slow(x); });
  const models::Gpt<float> gpt(parameters / "gpt", {.vocabulary = 9, .context = 7, .model_dims = 8});
  const Tensor<std::int32_t> ids({1, 4}, 1);  // of 8
  expect_error({"ids", "length <= context 7"}, [&] { gpt.logits(tape, ids); });
  const models::Encoder<float> encoder(
      parameters / "encoder", {.vocabulary = 9, .context = 8, .num_layers = 1, .model_dims = 8, .num_heads = 2});
  expect_error({"encoder: its pooler reads token 0, which one rank of a ring alone has"}, [&] { encoder.pooled(x); });
  nn::TransformerLayerConfig routed{.model_dims = 8, .hidden_dims = 8, .num_heads = 2};
  routed.routed = {.num_experts = 2};
  const nn::TransformerLayer<float> experts(parameters / "experts", routed);
  Tape plan({.ring = rank(0, 2), .mode = Mode::plan});
  expect_error({"experts: experts would take key_lengths, which are of whole sequences"}, [&] {
    experts.with_auxiliary(plan.input(Tensor<float>({1, 4, 8}, 0.5F)), {.key_lengths = Tensor<std::int32_t>({1}, 4)});
  });
}

// A ring's results are kept under every policy, and a plan says exactly what that takes.
TEST(RingAttention, IsNeverReplayedAndItsPlansKnow) {
  ParameterRegistry parameters(1);
  models::GptConfig config{.vocabulary = 20, .context = 64, .num_layers = 2, .model_dims = 16, .num_heads = 2};
  config.remat = policy::nothing;
  const models::Gpt<float> gpt(parameters / "gpt", config);
  const Tensor<std::int32_t> ids({2, 32}, 3);
  const auto made = plan([&](Tape& tape) {
    tape.set_ring(rank(1, 2));
    return gpt.loss(tape, ids, ids);
  });
  const auto replays = [](const TapeStats& stats, const char* op) {
    const auto found = stats.replayed_by_op.find(op);
    return found == stats.replayed_by_op.end() ? Index{0} : found->second;
  };
  for (const PlannedPolicy& row : made.rows()) EXPECT_EQ(replays(row.stats, "attention"), 0) << row.name;
  EXPECT_GT(replays(made.under(policy::nothing).stats, "linear"), 0);
  const auto least = made.under(policy::nothing).stats.peak_bytes,
             most = made.under(policy::everything).stats.peak_bytes;
  for (std::size_t bytes = least; bytes <= most; bytes += (most - least) / 4)
    EXPECT_LE(made.under(made.within(bytes)).stats.peak_bytes, bytes);
}

}  // namespace
