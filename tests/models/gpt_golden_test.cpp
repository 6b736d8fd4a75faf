// A tiny GPT against PyTorch in float64: tests/golden/gpt.json, written by make_gpt.py beside it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <remat/data.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;

const nlohmann::json& golden() {
  static const auto json = nlohmann::json::parse(std::ifstream(REMAT_SOURCE_DIR "/tests/golden/gpt.json"));
  return json;
}

template <class T>
Tensor<T> tensor(const nlohmann::json& json) {
  const auto shape = json.at("shape").get<std::vector<Index>>();
  return Tensor<T>({shape.begin(), shape.end()}, json.at("values").get<std::vector<T>>());
}

/// The largest difference, relative to the largest expected magnitude.
template <class T>
double relative_error(const Tensor<T>& actual, const nlohmann::json& json) {
  const auto expected = tensor<double>(json);
  if (actual.shape() != expected.shape()) return HUGE_VAL;
  double largest = 0, difference = 0;
  for (Index i = 0; i < expected.size(); ++i) {
    const double off = std::abs(static_cast<double>(actual[i]) - expected[i]);
    if (std::isnan(off)) return HUGE_VAL;
    largest = std::max(largest, std::abs(expected[i]));
    difference = std::max(difference, off);
  }
  return difference / largest;
}

template <class T>
models::Gpt<T> golden_gpt(const ParameterRegistry& parameters, const Policy& remat) {
  const auto& config = golden().at("config");
  models::Gpt<T> gpt(parameters / "gpt", {.vocabulary = config.at("vocabulary"),
                                          .context = config.at("context"),
                                          .num_layers = config.at("layers"),
                                          .model_dims = config.at("dims"),
                                          .num_heads = config.at("heads"),
                                          .remat = remat});
  for (const auto& entry : parameters.entries())
    Parameter<T>(entry).set_value(tensor<T>(golden().at("parameters").at(entry->path)));
  return gpt;
}

template <class T>
void expect_golden(const Policy& remat, double tolerance) {
  const ParameterRegistry parameters;
  const auto gpt = golden_gpt<T>(parameters, remat);
  ASSERT_EQ(parameters.entries().size(), golden().at("parameters").size());
  const data::Batch batch{tensor<std::int32_t>(golden().at("tokens")), tensor<std::int32_t>(golden().at("targets"))};

  Tape evaluation({.mode = Mode::evaluate});
  EXPECT_LE(relative_error(gpt.logits(evaluation, batch.inputs).value(), golden().at("logits")), tolerance);

  Tape tape;
  const auto loss = gpt.loss(tape, batch);
  tape.backward(loss);
  const double expected = golden().at("loss");
  EXPECT_NEAR(static_cast<double>(loss.item()), expected, tolerance * expected);
  for (const auto& [path, gradient] : golden().at("gradients").items())
    EXPECT_LE(relative_error(parameters.at<T>(path).grad(), gradient), tolerance) << path;
}

TEST(GptGolden, Double) { expect_golden<double>(policy::everything, 1e-10); }
TEST(GptGolden, DoubleWithRemat) { expect_golden<double>(policy::nothing, 1e-10); }
TEST(GptGolden, Float) { expect_golden<float>(policy::everything, 1e-5); }
TEST(GptGolden, FloatWithRemat) { expect_golden<float>(policy::nothing, 1e-5); }

}  // namespace
