// A batch in parts: gradients add up to those of the whole, and activations take the memory of a part.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <remat/data.hpp>
#include <vector>

#include "core/expect_error.hpp"
#include "promises/small_gpt.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

struct Outcome {
  double loss = 0, norm = 0;
  std::size_t peak_bytes = 0;
  std::vector<Tensor<float>> gradients{};  // in order of path
};

template <class T>
Outcome in_parts(int parts, const Policy& policy, double dropout = 0) {
  models::GptConfig config = remat_test::small_gpt();
  config.remat = policy;
  config.dropout = dropout;
  ParameterRegistry parameters(5);
  const models::Gpt<T> gpt(parameters / "gpt", config);
  const auto all = remat_test::tokens(6, config.context, config.vocabulary);
  const data::Batch batch{all.inputs, all.targets};
  optim::GlobalNorm norm(parameters);
  Outcome outcome;
  for (int i = 0; i < parts; ++i) {
    const Index rows = 6 / parts;
    const data::Batch part = batch.rows(rows * i, rows * (i + 1));
    Tape tape({.step = 3, .first_row = rows * i, .rows = rows});
    const auto share = gpt.loss(tape, part) * (1.0 / parts);
    tape.backward(share, i + 1 == parts ? norm.in_backward() : GradientHook());
    outcome.loss += static_cast<double>(share.item());
    outcome.peak_bytes = std::max(outcome.peak_bytes, tape.stats().peak_bytes);
  }
  outcome.norm = norm.value();
  for (const auto& entry : parameters.entries()) outcome.gradients.push_back(Parameter<float>(entry).grad().copy());
  return outcome;
}

/// The largest difference of two tensors, as a part of the largest number in the first.
template <class T>
double distance(const Tensor<T>& a, const Tensor<T>& b) {
  double difference = 0, largest = 1e-30;
  for (Index i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(double{a[i]} - double{b[i]}));
    largest = std::max(largest, std::abs(double{a[i]}));
  }
  return difference / largest;
}

template <class T>
void expect_equal_gradients(double tolerance, double dropout = 0) {
  for (const Policy& policy : {Policy(policy::everything), Policy(policy::save_nothing)}) {
    const Outcome whole = in_parts<T>(1, policy, dropout);
    for (const int parts : {2, 3, 6}) {
      const Outcome sum = in_parts<T>(parts, policy, dropout);
      EXPECT_NEAR(sum.loss, whole.loss, tolerance);
      EXPECT_NEAR(sum.norm / whole.norm, 1, tolerance);
      for (std::size_t i = 0; i < whole.gradients.size(); ++i)
        EXPECT_LT(distance(whole.gradients[i], sum.gradients[i]), tolerance) << parts << " parts, parameter " << i;
    }
  }
}

TEST(MicroBatches, AddUpToTheWholeBatch) { expect_equal_gradients<float>(1e-5); }

TEST(MicroBatches, AddUpToTheWholeBatchInBfloat16) { expect_equal_gradients<bfloat16>(0.05); }

// A row drops what it drops in the whole batch, in every layer: embeddings, probabilities, branches.
TEST(MicroBatches, AddUpToTheWholeBatchWithDropout) { expect_equal_gradients<float>(1e-5, 0.3); }

// Sequences that end early leave parts with unequal numbers of tokens: each part counts by its own, as `token_shares`
// has it.
TEST(MicroBatches, OfUnequalTokenCountsAddUpToTheWholeBatch) {
  const models::GptConfig config = remat_test::small_gpt();
  auto all = remat_test::tokens(6, config.context, config.vocabulary);
  const auto ends = std::to_array<Index>({13, 2, 7, 1, 0, 11});
  std::vector<double> counts;
  for (Index row = 0; row < 6; ++row) {
    counts.push_back(static_cast<double>(ends[static_cast<std::size_t>(row)]));
    for (Index t = ends[static_cast<std::size_t>(row)]; t < 13; ++t) all.targets.write()[row * 13 + t] = -1;
  }
  const data::Batch batch{all.inputs, all.targets};
  const auto gradients = [&](Index rows) {
    ParameterRegistry parameters(5);
    const models::Gpt<double> gpt(parameters / "gpt", config);
    const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
    for (Index begin = 0; begin < 6; begin += rows) {
      const double own = std::accumulate(counts.begin() + begin, counts.begin() + begin + rows, 0.0);
      Tape tape({.step = 3, .first_row = begin, .rows = rows});
      tape.backward(gpt.loss(tape, batch.rows(begin, begin + rows)) * (own / total));
    }
    std::vector<Tensor<double>> found;
    for (const auto& entry : parameters.entries()) found.push_back(Parameter<double>(entry).grad().copy());
    return found;
  };
  const auto whole = gradients(6);
  for (const Index rows : {1, 2, 3}) {
    const auto sum = gradients(rows);
    for (std::size_t i = 0; i < whole.size(); ++i) EXPECT_LT(distance(whole[i], sum[i]), 1e-12) << rows << ", " << i;
  }
}

TEST(MicroBatches, TakeTheMemoryOfAPart) {
  const double whole = static_cast<double>(in_parts<float>(1, policy::everything).peak_bytes);
  EXPECT_LT(static_cast<double>(in_parts<float>(3, policy::everything).peak_bytes) / whole, 0.5);
  EXPECT_LT(static_cast<double>(in_parts<float>(6, policy::everything).peak_bytes) / whole, 0.4);
}

TEST(MicroBatches, OfRowsThatAreNotThereAreRefused) {
  const data::Batch batch{Tensor<std::int32_t>({4, 3}, 0), Tensor<std::int32_t>({4, 3}, 0)};
  EXPECT_EQ(batch.rows(1, 3).targets.shape(), (Shape{2, 3}));
  expect_error({"batch: rows [3, 5) of 4"}, [&] { batch.rows(3, 5); });
  expect_error({"batch: rows [2, 2) of 4"}, [&] { batch.rows(2, 2); });
}

// Protects from steps that teach nothing: a batch without sequences, or of sequences without tokens, has no loss.
TEST(MicroBatches, AnEmptyBatchIsRefused) {
  ParameterRegistry parameters;
  const models::Gpt<float> gpt(parameters / "gpt", remat_test::small_gpt());
  for (const Shape& shape : {Shape{0, 4}, Shape{2, 0}}) {
    const Tensor<std::int32_t> ids(shape);
    Tape tape;
    expect_error({"gpt", shape.to_string(), "no tokens"}, [&] { gpt.loss(tape, data::Batch{ids, ids}); });
  }
}

}  // namespace
