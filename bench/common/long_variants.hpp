// Four ways to train one GPT on long sequences, from the fastest to the leanest, and what each would take.
#pragma once

#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <remat/data/batches.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>
#include <utility>
#include <vector>

namespace long_context {

struct Shape {
  int layers = 4, dims = 256, heads = 16, hidden = 1024, context = 8192;
  int query_chunk = 2048, key_chunk = 0, ffn_chunk = 0;
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

/// What a step of one variant would take at any context, without computing it or allocating what it would hold.
class Planner {
 public:
  Planner(const Shape& shape, Variant variant) : shape_(shape), variant_(std::move(variant)) { build(); }

  const remat::PlannedPolicy& at(int context) {
    const auto known = plans_.find(context);
    if (known != plans_.end()) return known->second;
    if (context > shape_.context) {  // the first values of a table of positions take longer than a plan
      shape_.context = static_cast<int>(std::bit_ceil(static_cast<unsigned>(context)));
      build();
    }
    const remat::Tensor<std::int32_t> ids({1, context}, 0);
    const auto step = [&](remat::Tape& tape) { return model_->gpt.loss(tape, remat::data::Batch{ids, ids}); };
    return plans_.emplace(context, remat::planned_step(step)).first->second;
  }

  /// The longest context whose step keeps to `bytes`: a multiple of 1024, or of 64 where 1024 is too long; 0 if none.
  int longest(std::size_t bytes) {
    const auto fits = [&](int context) { return at(context).stats.peak_bytes <= bytes; };
    const int unit = fits(1024) ? 1024 : 64;
    int low = 0, high = unit;  // the first fits, the second does not
    while (high <= (1 << 28) && fits(high)) low = high, high *= 2;
    while (high - low > unit) {
      const int middle = (low + (high - low) / 2) / unit * unit;
      (fits(middle) ? low : high) = middle;
    }
    return low;
  }

 private:
  struct Model {
    remat::ParameterRegistry parameters;
    remat::models::Gpt<float> gpt;
    Model(const Shape& s, const Variant& v) : gpt(parameters / "gpt", config_of(s, v)) {}
  };
  void build() { model_ = std::make_unique<Model>(shape_, variant_); }

  Shape shape_;
  Variant variant_;
  std::unique_ptr<Model> model_;
  std::map<int, remat::PlannedPolicy> plans_;
};

}  // namespace long_context
