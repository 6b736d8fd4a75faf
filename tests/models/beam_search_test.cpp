// Beam search finds what transformers finds (tests/golden/make_beams.py), and what looking at all continuations finds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <remat/io/hugging_face.hpp>
#include <remat/models/generation.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "models/golden.hpp"

namespace {

using namespace remat;
using models::BeamSearchOptions, models::EarlyStopping;
using remat_test::expect_error;
using remat_test::golden;
using Ids = std::vector<std::int32_t>;

struct Golden {
  ParameterRegistry parameters;
  models::Decoder<double> model;
  explicit Golden(const std::string& family) : Golden(io::HuggingFaceFolder(golden(family))) {}
  explicit Golden(const io::HuggingFaceFolder& folder) : model(parameters / "m", io::decoder_config(folder)) {
    io::load_weights(folder, model);
  }
};

TEST(BeamSearch, FindsWhatTransformersFinds) {
  std::ifstream file(golden("beams.json"));
  const auto cases = nlohmann::json::parse(file);
  EXPECT_GT(cases.size(), 50U);
  std::map<std::string, Golden> models;
  const std::map<std::string, EarlyStopping> stopping{
      {"false", EarlyStopping::heuristic}, {"true", EarlyStopping::at_once}, {"never", EarlyStopping::never}};
  for (const auto& each : cases) {
    SCOPED_TRACE(each.dump());
    const auto& model = models.try_emplace(each["family"], each["family"].get<std::string>()).first->second.model;
    const BeamSearchOptions options{.length = each["length"],
                                    .beams = each["beams"],
                                    .length_penalty = each["length_penalty"],
                                    .early_stopping = stopping.at(each["early_stopping"]),
                                    .stop_tokens = each["stop"]};
    for (const Index chunk : {Index{0}, Index{2}}) {
      const auto found = models::beam_search(model, each["prompt"].get<Ids>(), options, chunk);
      ASSERT_EQ(found.size(), each["expected"].size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].tokens, each["expected"][i]["tokens"].get<Ids>()) << i;
        const auto score = each["expected"][i]["score"].get<double>();
        EXPECT_NEAR(found[i].score, score, 1e-5 * (1 + std::abs(score))) << i;
      }
    }
  }
}

// With a beam for every beginning nothing is lost: the scores are those of all continuations, the best first.
TEST(BeamSearch, WithEnoughBeamsLooksAtEveryContinuation) {
  const Golden golden_model("llama");
  const auto& model = golden_model.model;
  const Index vocabulary = model.config.vocabulary;
  const Ids prompt{5, 3};
  std::vector<models::Beam> all;
  for (std::int32_t a = 0; a < vocabulary; ++a)
    for (std::int32_t b = 0; b < vocabulary; ++b) {
      Tape tape({.mode = Mode::evaluate});
      const Ids text{5, 3, a, b};
      const Tensor<double> logits = model.logits(tape, {{1, 4}, std::span<const std::int32_t>(text)}).value();
      double score = 0;
      for (const Index t : {1, 2}) {
        double sum = 0;
        for (Index v = 0; v < vocabulary; ++v) sum += std::exp(logits(0, t, v));
        score += logits(0, t, text[static_cast<std::size_t>(t + 1)]) - std::log(sum);
      }
      all.push_back({{a, b}, score / 2});
    }
  std::sort(all.begin(), all.end(), [](const auto& x, const auto& y) { return x.score > y.score; });
  const auto found = models::beam_search(model, prompt, {.length = 2, .beams = vocabulary});
  ASSERT_EQ(found.size(), static_cast<std::size_t>(vocabulary));
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].tokens, all[i].tokens) << i;
    EXPECT_NEAR(found[i].score, all[i].score, 1e-12) << i;
  }
}

TEST(BeamSearch, OfOneBeamIsWhatGenerateChooses) {
  const Golden granite("granite");
  const Ids prompt{3, 1, 4};
  const Ids text = granite.model.generate(prompt, {.length = 8, .temperature = 0});
  const auto found = models::beam_search(granite.model, prompt, {.length = 8, .beams = 1});
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].tokens, Ids(text.begin() + 3, text.end()));
}

// There are not always as many continuations as beams.
TEST(BeamSearch, GivesAllThatThereAre) {
  const Golden llama("llama");
  const auto found = models::beam_search(llama.model, {1}, {.length = 1, .beams = 50});
  EXPECT_EQ(found.size(), static_cast<std::size_t>(llama.model.config.vocabulary));
  const auto none = models::beam_search(llama.model, {1}, {.length = 0, .beams = 3});
  ASSERT_EQ(none.size(), 1U);
  EXPECT_TRUE(none[0].tokens.empty());
}

TEST(BeamSearch, RefusesWhatItCannotDo) {
  const Golden llama("llama");
  const auto refuse = [&](const Ids& prompt, const BeamSearchOptions& options,
                          std::initializer_list<std::string_view> parts) {
    expect_error(parts, [&] { models::beam_search(llama.model, prompt, options); });
  };
  refuse({}, {.length = 1}, {"m: generate needs a prompt"});
  refuse({99}, {.length = 1}, {"prompt[0] is 99"});
  refuse({1}, {.length = 1, .beams = 0}, {"m: beam_search: beams must be > 0, got 0"});
  refuse({1}, {.length = -1}, {"m: beam_search: length must be >= 0, got -1"});
  refuse({1}, {.length = 1, .length_penalty = std::numeric_limits<double>::infinity()},
         {"m: beam_search: length_penalty must be finite"});
  refuse({1}, {.length = 1, .stop_tokens = {19}}, {"m: beam_search: stop token 19 is not in [0, 19)"});
  refuse({1, 2, 3}, {.length = 14}, {"m: beam_search: a prompt of 3 tokens and 14 more do not fit", "context of 16"});
  const std::vector<float> hidden(3, -std::numeric_limits<float>::infinity());
  expect_error({"here: all logits are -infinity"},
               [&] { models::detail::likeliest_steps<float>({0.0}, hidden, 1, "here: "); });
}

}  // namespace
