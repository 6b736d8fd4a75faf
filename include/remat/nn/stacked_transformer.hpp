// A stack of transformer layers under one remat policy.
#pragma once

#include <algorithm>
#include <optional>
#include <remat/nn/transformer_layer.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `StackedTransformer`.
struct StackedTransformerConfig {
  std::vector<TransformerLayerConfig> layers{};  // first to last, all of one model_dims
  Policy remat = policy::everything;             // what survives until backward in each region; everything: no regions
  Index remat_every = 1;                         // layers to a region
  std::string shared_weight_id{};                // the whole stack
  std::optional<SkipStream> skip_stream{};       // of every layer; empty: what the layers say, and all say the same
  double stochastic_depth = 0;  // drop_path of layer i of L is this times i / L, so that none is dropped of the first
  double input_dropout = 0;     // on what enters the first layer
};

/// Which layers of a model are recomputed in backward, and what of them stays.
struct GradientCheckpointing {
  Policy policy = policy::nothing;  // of each layer's region
  Index every_n_layers = 1;         // the first layer, and each n-th from it on; the others keep all
};

/// As transformers' activation_checkpointing_enable says it: nothing kept of each n-th layer but what it makes, which
/// waits in memory or on disk.
inline GradientCheckpointing activation_checkpointing(Index every_n_layers, bool is_offloaded) {
  return {.policy = is_offloaded ? offload(policy::save_iteration_input) : policy::nothing,
          .every_n_layers = every_n_layers};
}

/// `count` configs, that of layer i what `config_of(i)` gives: a pattern over depth.
template <class F>
std::vector<TransformerLayerConfig> layers_by_index(Index count, F&& config_of) {
  std::vector<TransformerLayerConfig> layers;
  for (Index i = 0; i < count; ++i) layers.push_back(config_of(i));
  return layers;
}
/// A block of layers so many times, each with weights of its own; or with those of the first block, under ids that
/// begin with `shared_weight_id` (Dehghani et al. 2018: Universal Transformers).
inline std::vector<TransformerLayerConfig> repeated(const std::vector<TransformerLayerConfig>& block, Index times,
                                                    const std::string& shared_weight_id = {}) {
  return layers_by_index(times * static_cast<Index>(block.size()), [&](Index i) {
    const Index place = i % static_cast<Index>(block.size());
    TransformerLayerConfig layer = block[static_cast<std::size_t>(place)];
    if (!shared_weight_id.empty()) layer.shared_weight_id = shared_weight_id + "_" + std::to_string(place);
    return layer;
  });
}

/// Layers one after another, `remat_every` of them to a checkpoint region (after Praxis's StackedTransformer). Shared
/// weight ids are resolved here, when the layers are built, so remat can change neither parameters nor their values. Of
/// bfloat16, x and with it the result may be of either type: where it is not that of the layers' skip stream, x is cast
/// before the first layer and the result behind the last.
/// A copy is a handle to the same weights.
template <class T>
struct StackedTransformer {
  std::vector<TransformerLayer<T>> layers;               // first to last
  Policy remat;                                          // of the steps recorded from now on
  Index remat_every;                                     // layers to a region
  double input_dropout;                                  // on what enters the first layer
  std::string path;                                      // the stack's path in the model
  std::optional<GradientCheckpointing> checkpointing{};  // set: in the place of remat and remat_every

  /// Makes its parameters in `where`, at `layer_0`, `layer_1` and so on. An `Error` names the first setting that is out
  /// of its range or fits no other layer.
  StackedTransformer(const Scope& where, const StackedTransformerConfig& config)
      : remat(config.remat),
        remat_every(config.remat_every),
        input_dropout(config.input_dropout),
        path(where.use_path()) {
    check(config);
    const LayerScope scope(where, config.shared_weight_id);
    layers.reserve(config.layers.size());
    for (std::size_t i = 0; i < config.layers.size(); ++i)
      layers.emplace_back(scope / ("layer_" + std::to_string(i)), with_stream(config, i));
    scope.complete();
  }

  /// Of the steps recorded from now on; the same as assigning `remat`. An `Error` while gradient checkpointing is on.
  void set_remat(const Policy& policy) {
    require(!checkpointing, path,
            ": set_remat: gradient checkpointing is enabled and says what stays; disable it first");
    remat = policy;
  }
  /// Each n-th layer is a region of its own from the next step on, whatever `remat` says: the same bits for less
  /// memory. An `Error` unless every_n_layers is above 0.
  void enable_gradient_checkpointing(const GradientCheckpointing& how = {}) {
    require(how.every_n_layers > 0, path, ": enable_gradient_checkpointing: every_n_layers is ", how.every_n_layers,
            ", must be > 0");
    checkpointing = how;
  }
  /// Steps are recorded as `remat` and `remat_every` say, from the next on.
  void disable_gradient_checkpointing() { checkpointing.reset(); }

  using Masks = AttentionMasks<T>;  // what a call may see

  /// x [B, T, D] -> [B, T, D], every layer with the same masks: `stack(x, {.key_lengths = lengths})`.
  template <SkipTypeOf<T> X>
  Var<X> operator()(const Var<X>& x, const Masks& masks = {}) const {
    check_no_loss(x.tape());
    return along_stream(x, nullptr, masks, {}, nullptr, nullptr);
  }
  /// A decoder, every layer with cross attention to one memory: x [B, T, D], memory [B, S, Dm] -> [B, T, D]; masks of
  /// self attention, and of attention to the memory.
  template <SkipTypeOf<T> X, SkipTypeOf<T> M>
  Var<X> operator()(const Var<X>& x, const Var<M>& memory, const Masks& masks = {},
                    const Masks& memory_masks = {}) const {
    check_no_loss(x.tape());
    const Var<T> seen = cast<T>(memory);
    return along_stream(x, &seen, masks, memory_masks, nullptr, nullptr);
  }
  /// Decoding: x [B, T, D], the positions behind those of the cache, which is extended -> [B, T, D].
  template <SkipTypeOf<T> X>
  Var<X> operator()(const Var<X>& x, KeyValueCache<T>& cache) const {
    return along_stream(x, nullptr, {}, {}, &cache, nullptr);
  }
  /// The same of a decoder at memory [B, S, Dm], of which the cache keeps each layer's keys and values.
  template <SkipTypeOf<T> X>
  Var<X> operator()(const Var<X>& x, const Var<T>& memory, KeyValueCache<T>& cache,
                    const Masks& memory_masks = {}) const {
    return along_stream(x, &memory, {}, memory_masks, &cache, nullptr);
  }
  /// Has any layer experts?
  bool has_experts() const {
    return std::any_of(layers.begin(), layers.end(), [](const auto& layer) { return layer.routed.has_value(); });
  }
  /// Of a stack with experts: x [B, T, D] -> [B, T, D], and the sum of the layers' auxiliary losses, to be added to the
  /// loss; each counts once, whatever is recomputed. At `memory` too where layers have cross attention.
  template <SkipTypeOf<T> X>
  std::pair<Var<X>, Var<Accum<T>>> with_auxiliary(const Var<X>& x, const Masks& masks = {},
                                                  const Var<T>* memory = nullptr,
                                                  const Masks& memory_masks = {}) const {
    require(has_experts(), path, ": no layer has experts, so there is no auxiliary loss; call the stack");
    Var<Accum<T>> auxiliary;
    const Var<X> y = along_stream(x, memory, masks, memory_masks, nullptr, &auxiliary);
    return {y, auxiliary};
  }

 private:
  void check_no_loss(const Tape& tape) const {
    require(
        tape.mode() == Mode::evaluate || !has_experts(), path,
        ": has experts, whose auxiliary losses would be lost; call with_auxiliary, or use a tape of Mode::evaluate");
  }
  static TransformerLayerConfig with_stream(const StackedTransformerConfig& config, std::size_t i);
  /// Before any parameter is made.
  void check(const StackedTransformerConfig& config) const;
  /// At `memory` too, and with what `cache` has seen, where they are not null.
  template <class X>
  Var<X> along_stream(const Var<X>& x, const Var<T>* memory, const Masks& masks, const Masks& memory_masks,
                      KeyValueCache<T>* cache, Var<Accum<T>>* auxiliary) const;
  template <class X>
  Var<X> run(const Var<X>& x, const Var<T>* memory, const Masks& masks, const Masks& memory_masks,
             KeyValueCache<T>* cache, Var<Accum<T>>* auxiliary) const;
};

template <class T>
template <class X>
Var<X> StackedTransformer<T>::run(const Var<X>& x, const Var<T>* memory, const Masks& masks, const Masks& memory_masks,
                                  KeyValueCache<T>* cache, Var<Accum<T>>* auxiliary) const {
  Var<X> h = dropout(x, input_dropout);
  const auto every = static_cast<std::size_t>(checkpointing ? 1 : remat_every);
  for (std::size_t first = 0; first < layers.size(); first += every) {
    const auto region = [&] {
      std::pair<Var<X>, std::optional<Var<Accum<T>>>> y(h, std::nullopt);
      for (std::size_t i = first; i < std::min(first + every, layers.size()); ++i) {
        const Var<X> input = checkpoint_name(y.first, "iteration_input");
        if (cache != nullptr) {
          y.first = memory != nullptr ? layers[i](input, *memory, cache->layer(i), memory_masks)
                                      : layers[i](input, cache->layer(i));
        } else if (auxiliary != nullptr && layers[i].routed) {
          const auto made = layers[i].with_auxiliary(input, masks, memory, memory_masks);
          y = {made.output, y.second ? *y.second + made.auxiliary : made.auxiliary};
        } else {
          y.first = memory != nullptr ? layers[i](input, *memory, masks, memory_masks) : layers[i](input, masks);
        }
      }
      return y;
    };
    const bool is_kept = checkpointing && static_cast<Index>(first) % checkpointing->every_n_layers != 0;
    const Policy kept = is_kept ? Policy(policy::everything) : checkpointing ? checkpointing->policy : remat;
    const auto [made, more] = x.tape().region(kept, region);
    h = made;
    if (more) *auxiliary = *auxiliary ? *auxiliary + *more : *more;
  }
  if (cache != nullptr) cache->expect({});
  return h;
}

template <class T>
template <class X>
Var<X> StackedTransformer<T>::along_stream(const Var<X>& x, const Var<T>* memory, const Masks& masks,
                                           const Masks& memory_masks, KeyValueCache<T>* cache,
                                           Var<Accum<T>>* auxiliary) const {
  if (layers.empty()) return x;
  const auto here = x.tape().layer(path);
  require(remat_every > 0, path, ": remat_every must be > 0, got ", remat_every);
  require(masks.weights == nullptr && memory_masks.weights == nullptr, path,
          ": attention weights are of one layer; call `layers` one by one");
  const bool is_accum = layers[0].config.skip_stream == SkipStream::accum;
  return is_accum ? cast<X>(run(cast<Accum<T>>(x), memory, masks, memory_masks, cache, auxiliary))
                  : cast<X>(run(cast<T>(x), memory, masks, memory_masks, cache, auxiliary));
}

template <class T>
void StackedTransformer<T>::check(const StackedTransformerConfig& config) const {
  require(remat_every > 0, path, ": remat_every must be > 0, got ", remat_every);
  detail::check_rate(path, "stochastic_depth", config.stochastic_depth);
  detail::check_rate(path, "input_dropout", config.input_dropout);
  for (std::size_t i = 0; i < config.layers.size(); ++i)
    require(config.stochastic_depth == 0 || config.layers[i].drop_path == 0, path, ": layer_", i, " has drop_path ",
            config.layers[i].drop_path, ", which stochastic_depth sets; leave out one of them");
  std::optional<TransformerLayerConfig> first;
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const std::string name = "layer_" + std::to_string(i);
    const TransformerLayerConfig layer = completed(with_stream(config, i), path + "/" + name);
    if (!first) first = layer;
    require(layer.model_dims == first->model_dims, path, ": ", name, " has model_dims ", layer.model_dims,
            ", layer_0 has ", first->model_dims, "; a stack has one stream");
    require(layer.skip_stream == first->skip_stream, path, ": ", name,
            " has another skip_stream than layer_0; set that of the stack, or one for all layers");
    require(layer.cross_attention.has_value() == first->cross_attention.has_value(), path, ": one of layer_0 and ",
            name, " has cross_attention, the other has none; a stack looks at its memory in every layer or in none");
    require(!layer.cross_attention || layer.cross_attention->memory_dims == first->cross_attention->memory_dims, path,
            ": the cross_attention of ", name, " and of layer_0 have unlike memory_dims; a stack has one memory");
  }
}

template <class T>
TransformerLayerConfig StackedTransformer<T>::with_stream(const StackedTransformerConfig& config, std::size_t i) {
  TransformerLayerConfig layer = config.layers[i];
  layer.skip_stream = config.skip_stream.value_or(layer.skip_stream);
  if (config.stochastic_depth > 0)
    layer.drop_path = config.stochastic_depth * static_cast<double>(i) / static_cast<double>(config.layers.size());
  return layer;
}

}}}  // namespace remat::nn
