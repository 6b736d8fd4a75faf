// Recomputing the layers of a model in backward, by the names that Hugging Face gives it.
#pragma once

#include <remat/nn/stacked_transformer.hpp>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// What models of stacks have in common: `Model` calls a function with each of them by `for_each_stack`.
template <class Model>
struct Checkpointed {
  /// Layers are recomputed in backward from the next step on, whatever `remat` says; embeddings and head are not: the
  /// same bits for less memory. An `Error` unless every_n_layers is above 0.
  void enable_gradient_checkpointing(const nn::GradientCheckpointing& how = {}) {
    model().for_each_stack([&](auto& stack) { stack.enable_gradient_checkpointing(how); });
  }
  /// The same, nothing kept of each n-th layer but what it makes, which waits in memory or on disk.
  void activation_checkpointing_enable(Index every_n_layers = 1, bool is_offloaded = false) {
    enable_gradient_checkpointing(nn::activation_checkpointing(every_n_layers, is_offloaded));
  }
  /// Steps are recorded as `remat` says, from the next on.
  void disable_gradient_checkpointing() {
    model().for_each_stack([](auto& stack) { stack.disable_gradient_checkpointing(); });
  }

 private:
  Model& model() { return static_cast<Model&>(*this); }
};

}}}  // namespace remat::models
