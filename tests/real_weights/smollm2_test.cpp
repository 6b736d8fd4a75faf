// SmolLM2-135M-Instruct from its GGUF file is what transformers reads from it (tests/golden/make_smollm2.py).
#include <gtest/gtest.h>

#include <cmath>
#include <remat/models.hpp>
#include <remat/pretrained.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
using Ids = std::vector<std::int32_t>;

class SmolLm2 : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    parameters = new ParameterRegistry;
    smollm = new models::Pretrained<float>(models::load<float>(*parameters / "smollm", REMAT_SMOLLM2));
  }
  static void TearDownTestSuite() {
    delete smollm;
    delete parameters;
  }
  static inline ParameterRegistry* parameters = nullptr;
  static inline models::Pretrained<float>* smollm = nullptr;
};

constexpr const char* sentence =
    "Rematerialization trades time for memory: a training step forgets most of what its forward pass computed, and "
    "computes it again when the backward pass asks for it.";
const Ids sentence_ids{7224,  1286, 1237, 23041, 655, 327,   3500, 42,    253,   2534, 1833,
                       6616,  99,   768,  282,   732, 624,   3703, 1301,  19551, 28,   284,
                       35864, 357,  1163, 645,   260, 17301, 1301, 11421, 327,   357,  30};
constexpr double sentence_loss = 5.3955041;
const std::vector<std::pair<std::string, double>> gradient_norms{{"embedding/table", 9.3395767},
                                                                 {"decoder/layer_0/attention/query/w", 0.0791393},
                                                                 {"decoder/layer_29/ffn/ffn2/w", 2.7218478},
                                                                 {"final_norm/scale", 0.6954121}};
const Ids question_ids{1,   9690, 198, 2683, 359,   253,  5356, 5646, 11173, 3365, 3511, 308,  34519,
                       28,  7018, 411, 407,  19712, 8182, 2,    198,  1,     4093, 198,  1780, 314,
                       260, 3575, 282, 4649, 47,    2,    198,  1,    520,   9531, 198};
const Ids answer_ids{504, 3575, 282, 4649, 314, 7042, 30, 2};

// Under a policy that keeps almost nothing, as a fine-tuning run on a small machine would.
TEST_F(SmolLm2, LossAndGradients) {
  const Ids ids = smollm->tokenizer.encode(sentence, {.add_special_tokens = false});
  EXPECT_EQ(ids, sentence_ids);
  const auto count = static_cast<Index>(ids.size());
  const Tensor<std::int32_t> all({1, count}, std::span<const std::int32_t>(ids));
  smollm->model.set_remat(policy::save_nothing);
  Tape tape({.step = 0});
  const auto loss = smollm->model.loss(tape, Tensor<std::int32_t>({1, count - 1}, std::span(ids).first(ids.size() - 1)),
                                       Tensor<std::int32_t>({1, count - 1}, std::span(ids).last(ids.size() - 1)));
  EXPECT_NEAR(loss.item(), sentence_loss, 1e-5);
  tape.backward(loss);
  for (const auto& [path, expected] : gradient_norms) {
    const Tensor<float> gradient = parameters->at<float>("smollm/" + path).grad();
    double sum = 0;
    for (const float g : gradient) sum += static_cast<double>(g) * static_cast<double>(g);
    EXPECT_NEAR(std::sqrt(sum) / expected, 1, 1e-4) << path;
  }
}

TEST_F(SmolLm2, AnswersByCache) {
  const auto format = text::recognize_chat(smollm->chat_template);
  const std::vector<text::ChatMessage> messages{{"user", "What is the capital of France?"}};
  const Ids prompt = text::encode_chat(smollm->tokenizer, format, messages, true);
  EXPECT_EQ(prompt, question_ids);
  const auto end = smollm->tokenizer.special_ids().eos;
  const Ids said =
      smollm->model.generate(prompt, {.length = 20, .temperature = 0}, [&](std::int32_t id) { return id != end; });
  EXPECT_EQ(Ids(said.begin() + static_cast<std::ptrdiff_t>(prompt.size()), said.end()), answer_ids);
  EXPECT_EQ(smollm->tokenizer.decode(std::span(said).subspan(prompt.size()), {.skip_special_tokens = true}),
            "The capital of France is Paris.");
}

}  // namespace
