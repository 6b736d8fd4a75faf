// What llama.cpp says: the likeliest tokens behind a prompt, by a model and, if one is given, an adapter.
//
//   llama_greedy MODEL.gguf ADAPTER.gguf|- COUNT ID...      prints COUNT ids
#include <llama.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "llama_greedy: %s\n", what);
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) fail("usage: llama_greedy MODEL.gguf ADAPTER.gguf|- COUNT ID...");
  llama_log_set([](ggml_log_level level, const char* text,
                   void*) { level >= GGML_LOG_LEVEL_WARN ? (void)std::fputs(text, stderr) : (void)0; },
                nullptr);
  llama_backend_init();
  llama_model* const model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) fail("the model cannot be loaded");
  std::vector<llama_token> ids;
  for (int i = 4; i < argc; ++i) ids.push_back(std::atoi(argv[i]));
  const int count = std::atoi(argv[3]);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 512;
  params.n_threads = params.n_threads_batch = 2;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* const context = llama_init_from_model(model, params);
  if (context == nullptr) fail("no context can be made");
  if (std::string(argv[2]) != "-") {
    llama_adapter_lora* adapter = llama_adapter_lora_init(model, argv[2]);
    float scale = 1;
    if (adapter == nullptr || llama_set_adapters_lora(context, &adapter, 1, &scale) != 0)
      fail("the adapter cannot be applied");
  }
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  llama_batch batch = llama_batch_get_one(ids.data(), static_cast<int>(ids.size()));
  for (int i = 0; i < count; ++i) {
    if (llama_decode(context, batch) != 0) fail("decoding failed");
    const float* const logits = llama_get_logits_ith(context, -1);
    llama_token next = static_cast<llama_token>(std::max_element(logits, logits + vocabulary) - logits);
    std::printf("%d\n", next);
    ids.assign(1, next);
    batch = llama_batch_get_one(ids.data(), 1);
  }
}
