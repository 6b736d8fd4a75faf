// A stack of transformer layers under one remat policy.
#pragma once

#include <remat/nn/transformer_layer.hpp>
#include <string>
#include <vector>

namespace remat::inline REMAT_ABI::nn {

struct StackedTransformerConfig {
  std::vector<TransformerLayerConfig> layers{};
  Policy remat = policy::everything;  // what survives until backward in each region; everything: no regions
  int remat_every = 1;                // layers to a region
  std::string shared_weight_id{};
};

/// Layers one after another, `remat_every` of them to a checkpoint region (after Praxis's StackedTransformer). Shared
/// weight ids are resolved here, when the layers are built, so remat can change neither parameters nor their values.
template <class T>
struct StackedTransformer {
  std::vector<TransformerLayer<T>> layers;
  Policy remat;
  int remat_every;
  std::string path;

  StackedTransformer(const Scope& where, const StackedTransformerConfig& config)
      : remat(config.remat), remat_every(config.remat_every), path(where.use_path()) {
    check(config);
    const LayerScope scope(where, config.shared_weight_id);
    layers.reserve(config.layers.size());
    for (std::size_t i = 0; i < config.layers.size(); ++i)
      layers.emplace_back(scope / ("layer_" + std::to_string(i)), config.layers[i]);
    scope.complete();
  }

  /// Of the steps recorded from now on; the same as assigning `remat`.
  void set_remat(const Policy& policy) { remat = policy; }

  /// x [B, T, D] -> [B, T, D]
  Var<T> operator()(const Var<T>& x) const {
    return run(x, [](const TransformerLayer<T>& layer, const Var<T>& h) { return layer(h); });
  }
  /// A decoder, every layer with cross attention to one memory: x [B, T, D], memory [B, S, Dm] -> [B, T, D].
  Var<T> operator()(const Var<T>& x, const Var<T>& memory) const {
    return run(x, [&](const TransformerLayer<T>& layer, const Var<T>& h) { return layer(h, memory); });
  }

 private:
  /// Before any parameter is made.
  void check(const StackedTransformerConfig& config) const {
    require(remat_every > 0, path, ": remat_every must be > 0, got ", remat_every);
    std::optional<TransformerLayerConfig> first;
    for (std::size_t i = 0; i < config.layers.size(); ++i) {
      const std::string name = "layer_" + std::to_string(i);
      const TransformerLayerConfig layer = completed(config.layers[i], path + "/" + name);
      if (!first) first = layer;
      require(layer.model_dims == first->model_dims, path, ": ", name, " has model_dims ", layer.model_dims,
              ", layer_0 has ", first->model_dims, "; a stack has one stream");
      require(layer.cross_attention.has_value() == first->cross_attention.has_value(), path, ": one of layer_0 and ",
              name, " has cross_attention, the other has none; a stack looks at its memory in every layer or in none");
      require(!layer.cross_attention || layer.cross_attention->memory_dims == first->cross_attention->memory_dims, path,
              ": the cross_attention of ", name, " and of layer_0 have unlike memory_dims; a stack has one memory");
    }
  }
  template <class Apply>
  Var<T> run(const Var<T>& x, const Apply& apply) const {
    const auto here = x.tape().layer(path);
    require(remat_every > 0, path, ": remat_every must be > 0, got ", remat_every);
    Var<T> h = x;
    const auto every = static_cast<std::size_t>(remat_every);
    for (std::size_t first = 0; first < layers.size(); first += every) {
      const auto region = [&] {
        Var<T> y = h;
        for (std::size_t i = first; i < std::min(first + every, layers.size()); ++i)
          y = apply(layers[i], checkpoint_name(y, "iteration_input"));
        return y;
      };
      h = remat == policy::everything ? x.tape().place(region) : x.tape().checkpoint(remat, region);
    }
    return h;
  }
};

}  // namespace remat::inline REMAT_ABI::nn
