// Decoders from GGUF files give the logits, the loss and the gradients that transformers computes (tests/golden), and
// refuse what they would not compute right.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <remat/io/gguf_decoder.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

std::string golden(const std::string& name) { return REMAT_SOURCE_DIR "/tests/golden/" + name + ".gguf"; }

class GgufDecoder : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, GgufDecoder, testing::Values("llama", "qwen2"));

TEST_P(GgufDecoder, GivesLogitsLossAndEveryGradientOfTransformers) {
  const io::GgufFile file(golden(GetParam())), gradients(golden(GetParam() + std::string("_gradients")));
  ParameterRegistry parameters, expected;
  const models::Decoder<double> model(parameters / "m", io::decoder_config(file));
  const models::Decoder<double> gradient(expected / "m", io::decoder_config(gradients));
  io::load_weights(file, model);
  io::load_weights(gradients, gradient);

  const auto ids = file.get<std::vector<std::int32_t>>("expected.ids");
  const Index batch = 2, length = static_cast<Index>(ids.size()) / batch;
  std::vector<std::int32_t> targets(ids.size(), -1);  // of what follows nothing is known
  for (std::size_t i = 0; i + 1 < ids.size(); ++i)
    if ((i + 1) % static_cast<std::size_t>(length) != 0) targets[i] = ids[i + 1];
  const auto tensor = [&](const std::vector<std::int32_t>& of) {
    return Tensor<std::int32_t>({batch, length}, std::span<const std::int32_t>(of));
  };
  Tape look({.mode = Mode::evaluate});
  const Tensor<double> logits = model.logits(look, tensor(ids)).value();
  const auto expected_logits = file.get<std::vector<double>>("expected.logits");
  ASSERT_EQ(static_cast<std::size_t>(logits.size()), expected_logits.size());
  for (Index i = 0; i < logits.size(); ++i)
    EXPECT_NEAR(logits[i], expected_logits[static_cast<std::size_t>(i)], 1e-5) << "logit " << i;

  Tape tape;
  const Var<double> loss = model.loss(tape, tensor(ids), tensor(targets));
  EXPECT_NEAR(loss.item(), file.get<std::vector<double>>("expected.loss")[0], 1e-6);
  tape.backward(loss);
  const auto entries = parameters.entries(), wanted = expected.entries();
  ASSERT_EQ(entries.size(), wanted.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    ASSERT_EQ(entries[i]->path, wanted[i]->path);
    const Tensor<double> is(entries[i]->grad_or_zeros()), should(wanted[i]->value);
    double error = 0, size = 0;
    for (Index k = 0; k < is.size(); ++k) error += std::pow(is[k] - should[k], 2), size += std::pow(should[k], 2);
    EXPECT_LE(std::sqrt(error), 1e-5 * std::sqrt(size)) << entries[i]->path;
    EXPECT_GT(size, 0) << entries[i]->path;
  }
}

// What a file lacks, or has beyond the model, is told at once, and nothing is half loaded.
TEST(GgufDecoderFiles, AllTensorsThatDoNotFitAreListed) {
  const io::GgufFile llama(golden("llama")), qwen2(golden("qwen2"));
  ParameterRegistry parameters;
  models::DecoderConfig config = io::decoder_config(llama);
  config.layers.pop_back();
  config.model_dims = 0;
  config.model_dims = config.layers[0].model_dims;
  config.layers[0].hidden_dims = 8;
  config.tied_head = false;
  const models::Decoder<float> model(parameters / "m", config);
  expect_error({"llama.gguf", "output.weight is missing, m/head/w needs it",
                "blk.0.ffn_up.weight has shape [24, 16], m/decoder/layer_0/ffn/ffn1/w needs [8, 16]",
                "\"blk.1.attn_q.weight\" belongs to no parameter"},
               [&] { io::load_weights(llama, model); });
  for (const auto& entry : parameters.entries())
    if (entry->path.find("norm") == std::string::npos) {
      const Tensor<float> value(entry->value);
      for (Index i = 0; i < value.size(); ++i) ASSERT_EQ(value[i], 0) << entry->path;
    }
  EXPECT_EQ(io::decoder_config(qwen2).layers[1].attention.bias, true);
  EXPECT_EQ(io::decoder_config(qwen2).layers[1].attention.out_bias, false);
}

}  // namespace
