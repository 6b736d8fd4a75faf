#include "finetune/model.hpp"

namespace finetune {

std::unique_ptr<Model> bfloat16_model(const remat::Scope& where, const std::string& path) {
  return std::make_unique<ModelOf<remat::bfloat16>>(where, path, remat::io::Matrices::numbers);
}

}  // namespace finetune
