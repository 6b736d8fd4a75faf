// What a pass of BERT may be given beside its tokens, and may give beside its result.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/models/encoder_config.hpp>
#include <remat/nn/key_value_cache.hpp>
#include <remat/ops/attention_options.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// What a pass gives beside its result, of every layer (transformers: output_hidden_states, output_attentions).
template <class T>
struct EncoderOutputs {
  bool output_attentions = false;  // fill in attentions, too: then scores exist whole, dropout draws the same masks and
                                   // results change by rounding
  std::vector<Var<Accum<T>>> hidden_states{};  // [B, T, D]: what enters the first layer, then what leaves each
  std::vector<Var<T>> attentions{};            // [B, N, T, T]: what values are multiplied by, dropout and head mask
                                               // included
  std::vector<Var<T>> cross_attentions{};      // [B, N, T, S], where there is cross attention
};

/// All of it may be left out.
template <class T>
struct EncoderOptions {
  Like<Accum<T>> head_mask{};  // [N], or [num_layers, N]: what heads of self and cross attention count for; 0: nothing
  Var<T> memory{};             // [B, S, D], what cross attention looks at (encoder_hidden_states)
  Tensor<std::int32_t> memory_lengths{};  // [B]: of the memory, tokens from there on are padding
  Tensor<std::int32_t> memory_mask{};     // [B, S] of 1, and of 0 for padding (encoder_attention_mask)
  nn::KeyValueCache<T>* cache = nullptr;  // of a decoder: ids are the tokens behind those that it has seen
  EncoderOutputs<T>* outputs = nullptr;   // is filled in
};

namespace detail {

/// Padding as attention hears of it: lengths [B], or a mask [B, S] of ones and zeros, of keys that go by `name`. An
/// `Error` that begins with `path` for what is no mask.
template <class T>
AttentionMasks<T> padding_masks(Tape& tape, const Tensor<std::int32_t>& lengths, const Tensor<std::int32_t>& mask,
                                const Shape& queries, const Shape& keys, const std::string& path, const char* name) {
  AttentionMasks<T> seen;
  require(lengths.size() == 0 || mask.size() == 0, path, ": was given ", name, "lengths and a ", name,
          "mask; one says it all");
  if (lengths.size() > 0) seen.key_lengths = tape.input(lengths);
  if (mask.size() == 0) return seen;
  require(mask.shape() == keys, path, ": the ", name, "mask has shape ", mask.shape(), ", ", keys, " is needed");
  require(std::all_of(mask.begin(), mask.end(), [](std::int32_t m) { return m == 0 || m == 1; }), path, ": the ", name,
          "mask has a value other than 0 and 1");
  // Every token looks from segment 1, where padding is not.
  seen.query_segments = tape.input(Tensor<std::int32_t>(queries, 1));
  seen.key_segments = tape.input(mask);
  return seen;
}

/// What a layer sees, in itself and of the memory, and what the heads of all layers count for.
template <class T>
struct EncoderVisibility {
  AttentionMasks<T> own{}, of_memory{};
  Var<Accum<T>> heads{};  // [N] or [num_layers, N]

  /// Those of one layer.
  void choose(std::size_t layer) {
    if (!heads) return;
    const auto i = static_cast<Index>(layer);
    const bool is_one = heads.shape().rank() == 1;
    own.head_mask = of_memory.head_mask = is_one ? heads : heads.slice(i, i + 1).reshape({heads.shape()[1]});
  }
};
/// Of a pass on the tape of x.
template <class T, class X>
EncoderVisibility<T> encoder_masks(const Var<X>& x, const EncoderInput& input, const EncoderOptions<T>& options,
                                   const std::string& path) {
  const Shape& ids = input.ids.shape();
  EncoderVisibility<T> seen{.own = padding_masks<T>(x.tape(), input.lengths, input.mask, ids, ids, path, "")};
  if (options.memory)
    seen.of_memory = padding_masks<T>(x.tape(), options.memory_lengths, options.memory_mask, ids,
                                      {options.memory.shape()[0], options.memory.shape()[1]}, path, "memory_");
  const Argument<Accum<T>>& heads = options.head_mask;
  if (heads.has_value()) seen.heads = Var<Accum<T>>(x.shared_program(), heads.on(x.program()));
  return seen;
}

/// An `Error` names what does not fit the model, before anything is recorded.
template <class T>
void check(const EncoderConfig& config, const EncoderInput& input, const EncoderOptions<T>& options,
           const std::string& path) {
  require(input.ids.shape().rank() == 2, path, ": ids have shape ", input.ids.shape(), ", [B, T] is needed");
  require(input.token_types.size() == 0 || input.token_types.shape() == input.ids.shape(), path,
          ": token_types have shape ", input.token_types.shape(), ", ids ", input.ids.shape());
  const bool has_memory = static_cast<bool>(options.memory);
  require(has_memory || !config.cross_attention, path, ": has cross attention, so it needs a memory; set .memory");
  require(
      config.cross_attention || (!has_memory && options.memory_lengths.size() == 0 && options.memory_mask.size() == 0),
      path, ": was given a memory, but its config has no cross_attention");
  require(!has_memory || options.memory.shape().rank() == 3, path, ": memory has shape ",
          has_memory ? options.memory.shape() : Shape{}, ", [B, S, D] is needed");
  const Shape& heads = options.head_mask.shape();
  require(!options.head_mask.has_value() || heads == Shape{config.num_heads} ||
              heads == Shape{config.num_layers, config.num_heads},
          path, ": head_mask has shape ", heads, ", [", config.num_heads, "] or [", config.num_layers, ", ",
          config.num_heads, "] is needed");
  if (options.cache == nullptr) return;
  require(config.is_decoder, path, ": decodes token by token, so is_decoder must be true");
  require(input.lengths.size() == 0 && input.mask.size() == 0 && !options.head_mask.has_value() &&
              (options.outputs == nullptr || !options.outputs->output_attentions),
          path, ": lengths, mask, head_mask and output_attentions are not of decoding with a cache; leave them out");
}

}  // namespace detail

}}}  // namespace remat::models
