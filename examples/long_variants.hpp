// Four ways to train one GPT on long sequences, from the fastest to the leanest.
#pragma once

#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

namespace long_context {

struct Shape {
  int layers = 4, dims = 256, heads = 16, hidden = 1024, context = 8192;
  int query_chunk = 1024, key_chunk = 0, ffn_chunk = 0;
};

struct Variant {
  std::string name, what;
  bool fused = true, blockwise = true;
  remat::Policy remat{};
};

inline std::vector<Variant> variants() {
  using namespace remat;
  return {{"plain", "every score is kept", false, false, policy::everything},
          {"fused", "no scores, a region a layer", true, false, policy::nothing},
          {"blockwise", "and attention and feed-forward by chunks of queries", true, true, policy::nothing},
          {"offloaded", "and what lies between layers on disk", true, true,
           offload(policy::names("iteration_input", "transformer_layer_out"))}};
}

/// A GPT over bytes.
inline remat::models::GptConfig config_of(const Shape& s, const Variant& v) {
  remat::models::GptConfig config{.vocabulary = 256,
                                  .context = s.context,
                                  .num_layers = s.layers,
                                  .model_dims = s.dims,
                                  .num_heads = s.heads,
                                  .hidden_dims = s.hidden,
                                  .remat = v.remat};
  config.fused_attention = v.fused;
  config.combined_qkv = false;
  if (v.blockwise)
    config.blockwise = {.query_chunk = s.query_chunk, .key_chunk = s.key_chunk, .ffn_chunk = s.ffn_chunk};
  return config;
}

/// What one step would take, without computing or allocating anything.
inline remat::PlannedPolicy planned(const Shape& s, const Variant& v) {
  remat::ParameterRegistry parameters;
  const remat::models::Gpt<float> gpt(parameters / "gpt", config_of(s, v));
  const remat::Tensor<std::int32_t> ids({1, s.context}, 0);
  return remat::planned_step([&](remat::Tape& tape) { return gpt.loss(tape, remat::data::Batch{ids, ids}); });
}

}  // namespace long_context
