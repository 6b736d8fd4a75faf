// Position-wise feed-forward layer.
#pragma once

#include <optional>
#include <remat/nn/config_checks.hpp>
#include <remat/nn/linear.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/blockwise.hpp>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `FeedForward`; model_dims and hidden_dims must be given.
struct FeedForwardConfig {
  Index model_dims = 0;                           // D, of what enters and leaves
  Index hidden_dims = 0;                          // F, between the two linears
  Activation activation = Activation::gelu;       // of the first linear, or of the gate
  bool gated = false;                             // act(x Wg) * (x W1) (Shazeer 2020); with silu it is SwiGLU
  bool bias = true;                               // of the linears
  double dropout = 0;                             // on the activation
  std::optional<Initializer> init{}, out_init{};  // of ffn1 and ffn2; Xavier uniform when empty
  std::string shared_weight_id{};                 // the whole layer
  std::string ffn1_shared_weight_id{}, ffn2_shared_weight_id{};  // one matrix; biases stay private
  BlockwiseConfig blockwise{};                                   // of which `ffn_chunk` and `policy` count here
};

/// An `Error` names the first setting that is out of its range.
inline const FeedForwardConfig& checked(const FeedForwardConfig& c, const std::string& path) {
  require(c.model_dims > 0 && c.hidden_dims > 0, path, ": feed-forward needs model_dims and hidden_dims > 0, got ",
          c.model_dims, " and ", c.hidden_dims);
  detail::check_rate(path, "dropout", c.dropout);
  detail::check_init(path, "init", c.init);
  detail::check_init(path, "out_init", c.out_init);
  detail::check(path, c.blockwise);
  return c;
}

/// act(x W1 + b1) W2 + b2, or its gated form.
/// A copy is a handle to the same weights.
template <class T>
struct FeedForward {
  const FeedForwardConfig config;             // as built
  std::string path;                           // the layer's path in the model
  Index chunk;                                // as blockwise.ffn_chunk, of the steps recorded from now on
  std::optional<Linear<T>> ffn1, gate, ffn2;  // [D, F], [D, F] when gated, [F, D]

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  FeedForward(const Scope& where, const FeedForwardConfig& c)
      : config(checked(c, where.use_path())), path(where.use_path()), chunk(c.blockwise.ffn_chunk) {
    const LayerScope scope(where, c.shared_weight_id);
    const LinearConfig in{.input_dims = c.model_dims, .output_dims = c.hidden_dims, .bias = c.bias, .init = c.init};
    LinearConfig first = in;
    first.shared_weight_id = c.ffn1_shared_weight_id;
    ffn1.emplace(scope / "ffn1", first);
    if (c.gated) gate.emplace(scope / "ffn1_gate", in);
    ffn2.emplace(scope / "ffn2", LinearConfig{.input_dims = c.hidden_dims,
                                              .output_dims = c.model_dims,
                                              .bias = c.bias,
                                              .init = c.out_init,
                                              .shared_weight_id = c.ffn2_shared_weight_id});
    scope.complete();
  }
  /// Without weights: what a transformer layer has in this place whose config has `routed`.
  FeedForward(std::string where, const FeedForwardConfig& c) : config(c), path(std::move(where)), chunk(0) {}
  /// x [..., D] -> [..., D]
  Var<T> operator()(const Var<T>& x) const {
    const auto here = x.tape().layer(path);
    require(ffn1.has_value(), path, ": the layer has experts here; call its `routed`");
    if (chunk == 0 || x.shape().rank() < 2 || x.shape()[x.shape().rank() - 2] <= chunk) return feed(x);
    return blockwise(x, -2, chunk, config.blockwise.policy, [this](const Var<T>& part, Index) { return feed(part); });
  }

 private:
  Var<T> feed(const Var<T>& x) const { return checkpoint_name((*ffn2)(hidden(x)), "ffn2"); }
  // [..., F]
  Var<T> hidden(const Var<T>& x) const {
    const Var<T> h = checkpoint_name((*ffn1)(x), "ffn1");
    if (!gate) return activate(h, config.activation, config.dropout);
    return gated_activate(checkpoint_name((*gate)(x), "ffn1_gate"), h, config.activation, config.dropout);
  }
};

}}}  // namespace remat::nn
