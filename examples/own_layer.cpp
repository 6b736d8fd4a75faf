// A layer of your own: a config, parameters asked of a scope, and a call. This one scales what an MLP adds to x.
#include <iostream>
#include <remat/remat.hpp>
#include <string>

struct ScaledMlpConfig {
  int model_dims = 0;
  int hidden_dims = 0;
  double initial_scale = 0.1;  // of the branch, for each dimension
};

/// x + scale * W2 gelu(W1 norm(x)): LayerScale (Touvron et al. 2021) around a feed-forward.
template <class T>
struct ScaledMlp {
  const ScaledMlpConfig config;
  std::string path;
  remat::nn::LayerNorm<T> norm;
  remat::nn::Linear<T> up, down;
  remat::Parameter<T> scale;  // [D]

  ScaledMlp(const remat::Scope& where, const ScaledMlpConfig& c) : ScaledMlp(remat::LayerScope(where), c, 0) {}

  /// x [..., D] -> [..., D]
  remat::Var<T> operator()(const remat::Var<T>& x) const {
    const auto here = x.tape().layer(path);  // policies, errors and reports name the layer
    const remat::Var<T> hidden = checkpoint_name(up(norm(x)), "mlp_hidden");
    return x + down(gelu(hidden)) * scale;
  }

 private:
  ScaledMlp(const remat::LayerScope& scope, const ScaledMlpConfig& c, int)
      : config(c),
        path(scope.use_path()),
        norm(scope / "norm", {.model_dims = c.model_dims}),
        up(scope / "up", {.input_dims = c.model_dims, .output_dims = c.hidden_dims}),
        down(scope / "down", {.input_dims = c.hidden_dims, .output_dims = c.model_dims}),
        scale(scope.template parameter<T>("scale", {c.model_dims}, remat::init::constant(c.initial_scale))) {
    scope.complete();
  }
};

int main() {
  remat::ParameterRegistry parameters(/*seed=*/1);
  const ScaledMlp<float> layer(parameters / "mlp", {.model_dims = 8, .hidden_dims = 32});
  std::cout << parameters;
  const remat::Tensor<float> x({2, 4, 8}, 0.5F);
  const auto gradient_under = [&](const remat::Policy& policy) {
    remat::Tape tape;
    const auto y = tape.checkpoint(policy, [&] { return layer(tape.input(x)); });
    tape.backward(sum(square(y)));
    const auto gradient = layer.scale.grad().copy();
    std::cout << policy << ": " << tape.stats().ops_replayed << " ops replayed\n";
    parameters.zero_grad();
    return gradient;
  };
  // The label is known to policies, and what is recomputed changes no bit.
  const auto kept = gradient_under(remat::policy::everything);
  return same_bits(kept, gradient_under(remat::policy::names("mlp_hidden"))) ? 0 : 1;
}
