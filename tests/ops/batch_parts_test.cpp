// A batch in parts draws the masks of the whole: a row's mask depends on its place in the step's batch, not on the cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <remat/ops/activation.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/blockwise.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/rms_norm.hpp>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

constexpr Index batch = 4, length = 6, dims = 24;

/// Numbers of the whole batch, [B, T, D], the same for each row: only masks tell rows apart.
Tensor<float> numbers() {
  Tensor<float> tensor({batch, length, dims});
  const Index row = length * dims;
  for (Index i = 0; i < tensor.size(); ++i)
    tensor.write()[i] = static_cast<float>(RandomStream{.seed = 3}.normal(static_cast<std::uint64_t>(i % row)));
  return tensor;
}

TapeOptions rows_from(Index begin, Index rows) { return {.seed = 5, .step = 2, .first_row = begin, .rows = rows}; }

/// What `fn(x)` gives for rows [begin, end) of the batch, on a tape that is told so.
template <class Fn>
std::vector<float> part(const Fn& fn, Index begin, Index end) {
  Tape tape(rows_from(begin, end - begin));
  dropout(tape.input(Tensor<float>({end - begin, 3}, 1.0F)), 0.5);  // another random op before it
  const Tensor<float> all = numbers();
  const Index row = length * dims;
  const auto x = tape.input(Tensor<float>({end - begin, length, dims},
                                          std::span(all.data() + begin * row, std::size_t((end - begin) * row))));
  const Tensor<float> y = fn(x).value();
  return {y.data(), y.data() + y.size()};
}

template <class Fn>
void expect_rows_of_the_whole(const Fn& fn) {
  const std::vector<float> whole = part(fn, 0, batch);
  for (const auto& cuts : {std::vector<Index>{0, 2, 4}, {0, 1, 2, 3, 4}, {0, 1, 4}, {0, 3, 4}}) {
    std::vector<float> joined;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const std::vector<float> own = part(fn, cuts[i], cuts[i + 1]);
      joined.insert(joined.end(), own.begin(), own.end());
    }
    EXPECT_EQ(joined, whole) << cuts.size() << ' ' << cuts[1];
  }
  const auto row = static_cast<std::ptrdiff_t>(whole.size()) / batch;
  EXPECT_FALSE(std::equal(whole.begin(), whole.begin() + row, whole.begin() + row)) << "rows share one mask";
}

using X = const Var<float>&;
const auto plain = [](X x) { return dropout(x, 0.4); };

TEST(BatchParts, DrawTheMasksOfTheWholeInElementwiseOpsAndNorms) {
  expect_rows_of_the_whole(plain);
  expect_rows_of_the_whole([](X x) { return activate(x, Activation::gelu, 0.4); });
  expect_rows_of_the_whole([](X x) { return gated_activate(x, x, Activation::silu, 0.4); });
  expect_rows_of_the_whole([](X x) { return skip_layer_norm(x, x, 0.4).sum; });
  expect_rows_of_the_whole([](X x) { return skip_rms_norm(x, x, 0.4).sum; });
}

TEST(BatchParts, DrawTheMasksOfTheWholeInAttention) {
  expect_rows_of_the_whole([](X x) { return attention_qkv(x, 4, 1, {.causal = true, .dropout = 0.4}); });
  expect_rows_of_the_whole([](X x) {
    const auto heads = x.reshape({x.shape()[0], length, 4, dims / 4});
    return attention(heads, heads, heads, {.dropout = 0.4});
  });
}

TEST(BatchParts, DrawTheMasksOfTheWholeInChunks) {
  for (const int axis : {0, 1, 2})
    expect_rows_of_the_whole([axis](X x) {
      return blockwise(x, axis, 3, policy::nothing, [](X chunk, Index) { return dropout(chunk, 0.4); });
    });
  expect_rows_of_the_whole([](X x) {
    const auto heads = x.reshape({x.shape()[0], length, 4, dims / 4});
    return blockwise(heads, 1, 4, policy::nothing,
                     [&](X queries, Index) { return attention(queries, heads, heads, {.dropout = 0.4}); });
  });
}

// [B T, D], [B T D] and [B N, T, H]: what lies inside a row follows it.
TEST(BatchParts, DrawTheMasksOfTheWholeWhereRowsAreFlattened) {
  expect_rows_of_the_whole([](X x) { return dropout(x.reshape({x.shape()[0] * length, dims}), 0.4); });
  expect_rows_of_the_whole([](X x) { return dropout(x.reshape({x.shape().size()}), 0.4); });
  expect_rows_of_the_whole([](X x) {
    const auto heads = x.reshape({x.shape()[0] * 2, length, 1, dims / 2});
    return attention(heads, heads, heads, {.dropout = 0.4});
  });
}

// Where rows cannot be told, no part repeats what another draws; the first draws what it always did.
TEST(BatchParts, OfValuesWithoutRowsDrawMasksOfTheirOwn) {
  const auto mask = [](Index first_row, bool is_regrouped, const Shape& shape) {
    Tape tape(rows_from(first_row, 2));
    const auto x = tape.input(Tensor<float>(shape, 1.0F));
    if (!is_regrouped) return dropout(x, 0.5).value().copy();
    const auto regrouped = tape.regrouped();
    return dropout(x, 0.5).value().copy();
  };
  for (const auto& [shape, is_regrouped] : {std::pair(Shape{3, 50}, false), std::pair(Shape{2, 75}, true)}) {
    Tape tape({.seed = 5, .step = 2});
    EXPECT_TRUE(same_bits(mask(0, is_regrouped, shape), dropout(tape.input(Tensor<float>(shape, 1.0F)), 0.5).value()));
    std::vector<Tensor<float>> masks;
    for (const Index first_row : {0, 1, 2, 4, 1 << 28}) masks.push_back(mask(first_row, is_regrouped, shape));
    for (std::size_t i = 0; i < masks.size(); ++i)
      for (std::size_t j = 0; j < i; ++j) EXPECT_FALSE(same_bits(masks[i], masks[j])) << shape << i << ' ' << j;
  }
  const auto word = [](Index first_row) { return Tape(rows_from(first_row, 2)).next_random().word(0); };
  EXPECT_EQ(word(0), Tape({.seed = 5, .step = 2}).next_random().word(0));
  EXPECT_NE(word(2), word(0));
  EXPECT_NE(word(2), word(4));
}

// A tape without a step, in a loop, would drop the same elements in every step, and nobody would see it.
TEST(Steps, AreNeededByRandomOpsInTraining) {
  const auto draw = [](const TapeOptions& options) {
    Tape tape(options);
    const auto here = tape.layer("net/layer_1");
    const auto x = tape.input(Tensor<float>({2, 3, 8}, 1.0F), {.wants_gradient = true});
    plain(x);
    skip_layer_norm(x, x, 0.4);
    activate(x, Activation::gelu, 0.4);
    attention_qkv(x, 2, 1, {.dropout = 0.4});
    tape.next_random();
  };
  expect_error({"dropout in net/layer_1: this tape was given no step", "Tape tape({.seed = 1, .step = step})"},
               [&] { draw({.seed = 1}); });
  expect_error({"noise: this tape was given no step"}, [] { Tape().next_random("noise"); });
  EXPECT_NO_THROW(draw({.seed = 1, .step = 0}));
  EXPECT_NO_THROW(draw({.mode = Mode::plan}));
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 3, 8}, 1.0F));
  EXPECT_NO_THROW(activate(dropout(x, 0), Activation::gelu, 0.0));
  Tape evaluate({.mode = Mode::evaluate});
  EXPECT_NO_THROW(dropout(evaluate.input(Tensor<float>({2}, 1.0F)), 0.4));
}

// Cut to 32 bits they would be other steps, whose masks would come again.
TEST(Steps, OutOfRangeAreRefused) {
  const auto made = [](const TapeOptions& options) { Tape tape(options); };
  EXPECT_NO_THROW(made({.step = 0xFFFFFFFF}));
  expect_error({"tape: step -1 is not in [0, 2^32)"}, [&] { made({.step = -1}); });
  expect_error({"tape: step 4294967296"}, [&] { made({.step = Index{1} << 32}); });
  expect_error({"first_row is 2 and rows is 0"}, [&] { made({.step = 0, .first_row = 2}); });
  expect_error({"first_row -1"}, [&] { made({.step = 0, .first_row = -1, .rows = 1}); });
  expect_error({"first_row 536870912"}, [&] { made({.step = 0, .first_row = Index{1} << 29, .rows = 1}); });
}

}  // namespace
