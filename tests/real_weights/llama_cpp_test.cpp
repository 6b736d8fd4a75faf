// llama.cpp says the tokens that we do: by our GGUF models, by our adapters beside them, and by models with these
// merged. `./run real-weights --llama-cpp` builds it; without it these tests are skipped.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <remat/models.hpp>
#include <remat/pretrained.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
using Ids = std::vector<std::int32_t>;
constexpr Index count = 12;

/// `llama_greedy` (llama_greedy.cpp), linked with llama.cpp.
const char* program() { return std::getenv("REMAT_LLAMA_GREEDY"); }

/// What llama.cpp says behind the prompt.
Ids theirs(const std::string& model, const std::string& adapter, const Ids& prompt) {
  std::string command = std::string(program()) + " '" + model + "' '" + adapter + "' " + std::to_string(count);
  for (const std::int32_t id : prompt) command += " " + std::to_string(id);
  FILE* const out = ::popen((command + " 2>/dev/null").c_str(), "r");
  Ids said;
  for (int id = 0; std::fscanf(out, "%d", &id) == 1;) said.push_back(id);
  EXPECT_EQ(::pclose(out), 0) << command;
  return said;
}
template <class T>
Ids ours(const models::Decoder<T>& model, const Ids& prompt) {
  const Ids all = model.generate(prompt, {.length = count, .temperature = 0});
  return Ids(all.begin() + static_cast<std::ptrdiff_t>(prompt.size()), all.end());
}

/// Adapters away from their beginning.
void fill(const nn::Lora<float>& lora, double size) {
  const RandomStream stream{.seed = 3};
  std::uint64_t at = 0;
  for (const auto& part : lora.parts()) {
    Tensor<float> up(part.up.shape());
    for (float& v : up.write()) v = static_cast<float>(size * stream.normal(at++));
    part.up.set_value(up);
  }
}

class LlamaCpp : public testing::Test {
 protected:
  void SetUp() override {
    if (program() == nullptr) GTEST_SKIP() << "REMAT_LLAMA_GREEDY names no program: ./run real-weights --llama-cpp";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string file(const std::string& name) const { return (folder_ / name).string(); }

  /// Of a model whose file is `base`: with and without the adapters, and with these merged, it says the same there.
  void expect_same(const models::Decoder<float>& model, const nn::Lora<float>& lora, const std::string& architecture,
                   const std::string& base, const Ids& prompt) {
    const Ids adapted = ours(model, prompt);
    lora.deactivate();
    const Ids plain = ours(model, prompt);
    lora.activate();
    EXPECT_NE(adapted, plain);
    EXPECT_EQ(theirs(base, "-", prompt), plain);
    io::save_gguf_lora(lora, model, file("adapter.gguf"), architecture);
    EXPECT_EQ(theirs(base, file("adapter.gguf"), prompt), adapted);
    io::save_merged_gguf(io::GgufFile(base), lora, model, file("merged.gguf"), io::BlockFormat::f32);
    EXPECT_EQ(theirs(file("merged.gguf"), "-", prompt), adapted);
  }

 private:
  std::filesystem::path folder_ = std::filesystem::path(testing::TempDir()) / "remat_llama_cpp";
};

// Rows of query and key lie in another order there, and alpha / sqrt(rank) is an alpha of its own.
TEST_F(LlamaCpp, SmolLm2WithAdaptersSaysTheSame) {
  ParameterRegistry parameters(1);
  auto smollm = models::load<float>(parameters / "smollm", REMAT_SMOLLM2, {.matrices = io::Matrices::as_stored});
  models::save(smollm, file("base.gguf"), {.format = io::BlockFormat::f32});  // llama.cpp rounds what others multiply
  const nn::Lora<float> lora(parameters, parameters / "lora", {.rank = 4, .alpha = 3, .rank_stabilized = true});
  fill(lora, 0.02);
  expect_same(smollm.model, lora, smollm.architecture, file("base.gguf"),
              smollm.tokenizer.encode("The capital of France is"));
}

// Parts of a fused projection beside layers that are adapted whole, adapters of rank 2 R beside some of rank R, and a
// head of its own.
TEST_F(LlamaCpp, PartsOfAFusedProjectionAndAHeadSayTheSame) {
  const io::GgufFile tokens(REMAT_SMOLLM2);
  nn::TransformerLayerConfig layer{.hidden_dims = 128, .num_heads = 4};
  layer.attention = {.combined_qkv = true};
  layer.ffn = {.activation = Activation::gelu_tanh};
  models::DecoderConfig config{.vocabulary = 49152, .model_dims = 64, .context = 64, .learned_positions = true};
  config.norm = nn::NormKind::layer_norm;
  config.layers.assign(2, layer);
  config.init_deviation = 0.3;
  config.tied_head = false;
  ParameterRegistry parameters(5);
  const models::Decoder<float> model(parameters / "m", config);
  io::save_gguf_model(model, file("base.gguf"),
                      {.architecture = "gpt2", .format = io::BlockFormat::f32, .base = &tokens});
  const nn::Lora<float> lora(
      parameters, parameters / "lora",
      {.targets = {"*/attention/query", "*/attention/value", "*/ffn/*"}, .rank = 3, .heads = {"*/head"}});
  fill(lora, 0.3);
  expect_same(model, lora, "gpt2", file("base.gguf"), {5, 17, 300, 42});
}

}  // namespace
