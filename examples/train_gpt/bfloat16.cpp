// The model in bfloat16.
#include <remat/core/eigen.hpp>

#include "train_gpt/model.hpp"

std::unique_ptr<train_gpt::Model> train_gpt::bfloat16_model(const remat::Scope& scope,
                                                            const remat::models::GptConfig& config) {
  return std::make_unique<ModelOf<remat::bfloat16>>(scope, config);
}
