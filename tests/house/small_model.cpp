// Writes a folder as Hugging Face's transformers would: a Llama with random weights, a tokenizer and a chat template,
// and beside it questions.jsonl. Programs that need a model are tried on it.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <remat/core/random.hpp>
#include <remat/io/safetensors_save.hpp>
#include <string>
#include <utility>
#include <vector>

int main(int argc, char** argv) try {
  remat::require(argc == 3, "usage: small_model TOKENIZER.json FOLDER");
  const std::filesystem::path folder = argv[2];
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(argv[1], folder / "tokenizer.json", std::filesystem::copy_options::overwrite_existing);
  constexpr remat::Index vocabulary = 910, dims = 32, hidden = 48, layers = 2;
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(folder / name) << text; };
  write("config.json", R"({"model_type": "llama", "vocab_size": 910, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu"})");
  write("chat_template.jinja",
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
        "'\\n'}}{% endfor %}");
  std::vector<std::pair<std::string, remat::Shape>> tensors{{"model.embed_tokens.weight", {vocabulary, dims}},
                                                            {"model.norm.weight", {dims}}};
  for (remat::Index i = 0; i < layers; ++i)
    for (const auto& [name, shape] :
         std::vector<std::pair<std::string, remat::Shape>>{{"input_layernorm", {dims}},
                                                           {"self_attn.q_proj", {dims, dims}},
                                                           {"self_attn.k_proj", {dims / 2, dims}},
                                                           {"self_attn.v_proj", {dims / 2, dims}},
                                                           {"self_attn.o_proj", {dims, dims}},
                                                           {"post_attention_layernorm", {dims}},
                                                           {"mlp.gate_proj", {hidden, dims}},
                                                           {"mlp.up_proj", {hidden, dims}},
                                                           {"mlp.down_proj", {dims, hidden}}})
      tensors.emplace_back("model.layers." + std::to_string(i) + "." + name + ".weight", shape);
  std::vector<remat::io::SafetensorsOutput> outputs;
  const remat::RandomStream random{.seed = 1};
  std::uint64_t at = 0;
  for (const auto& [name, shape] : tensors) {
    remat::Tensor<float> value(shape);
    for (float& v : value.write()) v = shape.rank() == 1 ? 1.0F : static_cast<float>(0.2 * random.normal(at++));
    outputs.push_back({name, remat::DType::float32, shape, [value] { return value.any(); }});
  }
  remat::io::save_safetensors(outputs, (folder / "model.safetensors").string());
  std::string questions;
  for (int i = 0; i < 60; ++i)
    questions += R"({"messages": [{"role": "user", "content": "What is )" + std::to_string(i) +
                 R"(?"}, {"role": "assistant", "content": "It is a number, of course."}]})" + "\n";
  write("questions.jsonl", questions);
  write("bad.jsonl", questions + "{\"messages\": 3}\n");
  write("empty.jsonl", "\n");
} catch (const std::exception& error) {
  std::fprintf(stderr, "small_model: %s\n", error.what());
  return 1;
}
