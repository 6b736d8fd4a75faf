// Embedding layer.
#pragma once

#include <remat/nn/config_checks.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/params/registry.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `Embedding`; vocabulary and model_dims must be given.
struct EmbeddingConfig {
  Index vocabulary = 0;                   // V, the number of rows
  Index model_dims = 0;                   // D, the length of a row
  Initializer init = init::normal(0.02);  // of the table
  std::string shared_weight_id{};         // layers that carry one id use one table
};

/// Looks up rows of `table` [V, D].
/// A copy is a handle to the same weights.
template <class T>
struct Embedding {
  Parameter<Accum<T>> table;  // [V, D], at `table`
  std::string path;           // the layer's path in the model

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  Embedding(const Scope& where, const EmbeddingConfig& config) : path(where.use_path()) {
    require(config.vocabulary > 0 && config.model_dims > 0, path,
            ": embedding needs vocabulary and model_dims > 0, got ", config.vocabulary, " and ", config.model_dims);
    detail::check_init(path, "init", config.init);
    const LayerScope scope(where, config.shared_weight_id);
    table = scope.parameter<Accum<T>>("table", {config.vocabulary, config.model_dims}, config.init);
    scope.complete();
  }
  /// ids [...] in [0, V) -> [..., D]
  Var<T> operator()(const Var<std::int32_t>& ids) const { return rows<T>(ids); }
  /// The same in type X: `T`, or that of the table.
  template <class X>
  Var<X> rows(const Var<std::int32_t>& ids) const {
    const auto here = ids.tape().layer(path);
    return embedding<X>(ids, table);
  }
};

}}}  // namespace remat::nn
