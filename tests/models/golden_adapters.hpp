// What tests of adapters in files share: the models of golden/, and the one step that PEFT made with adapters of its
// own.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <remat/io/hugging_face.hpp>
#include <remat/io/peft.hpp>
#include <string>
#include <vector>

#include "models/golden.hpp"

namespace remat_test {

using remat::Index;
using remat::ParameterRegistry;
using remat::Tensor;

template <class T>
remat::models::Decoder<T> base_in(ParameterRegistry& parameters, const char* name = "llama") {
  const remat::io::HuggingFaceFolder folder(golden(name));
  const remat::models::Decoder<T> model(parameters / "m", remat::io::decoder_config(folder));
  remat::io::load_weights(folder, model);
  return model;
}
template <class T>
Tensor<T> logits_of(const remat::models::Decoder<T>& model) {
  remat::Tape tape({.mode = remat::Mode::evaluate});
  return model.logits(tape, Tensor<std::int32_t>({2, 4}, {3, 1, 4, 1, 2, 7, 1, 8})).value();
}
template <class T>
double farthest(const Tensor<T>& a, const Tensor<T>& b) {
  double most = a.shape() == b.shape() ? 0 : 1e9;
  for (Index i = 0; i < std::min(a.size(), b.size()); ++i)
    most = std::max<double>(most, std::abs(a.data()[i] - b.data()[i]));
  return most;
}
/// A folder or file of this test, gone afterwards.
struct Place {
  std::string path;
  explicit Place(const std::string& name)
      : path((std::filesystem::path(testing::TempDir()) / ("remat_lora_" + std::to_string(::getpid()) + "_" + name))
                 .string()) {
    std::filesystem::remove_all(path);
  }
  ~Place() { std::filesystem::remove_all(path); }
};

/// A model and adapters at which PEFT's step was looked at: its logits and loss are theirs, and backward has run.
class GoldenStep {
 public:
  /// `name` is that of the file of what is expected, and of the adapters unless they are at `adapters`.
  explicit GoldenStep(const std::string& name, const char* base = "llama", const std::string& adapters = {})
      : model(base_in<double>(parameters, base)),
        lora(remat::io::load_peft(parameters, parameters / "lora", model, adapters.empty() ? golden(name) : adapters)),
        expected_(golden(name + ".safetensors")) {
    const Tensor<std::int32_t> ids = expected_.read<std::int32_t>("ids");
    remat::Tape look({.mode = remat::Mode::evaluate});
    EXPECT_LT(farthest(model.logits(look, ids).value(), expected_.read_as<double>("logits")), 1e-5);
    std::vector<std::int32_t> targets(16, -1);  // the next ids of each of two rows
    for (std::size_t i = 0; i < 15; ++i)
      if (i != 7) targets[i] = ids.data()[i + 1];
    remat::Tape tape({.step = 1});
    const auto loss = model.loss(tape, ids, Tensor<std::int32_t>({2, 8}, std::span<const std::int32_t>(targets)));
    EXPECT_NEAR(loss.item(), expected_.read_as<double>("loss").data()[0], 1e-6);
    tape.backward(loss);
  }

  /// The gradient of a tensor of PEFT's file: "model.layers.0.mlp.up_proj.lora_A.weight".
  Tensor<float> gradient(const std::string& name) const {
    return expected_.read<float>("gradient.base_model.model." + name);
  }
  /// That it is ours, which is laid out as in the file, within `tolerance` of its largest element.
  void expect_gradient(const Tensor<float>& is, const std::string& name, double tolerance = 1e-5) const {
    const Tensor<float> should = gradient(name);
    double size = 0;
    for (Index i = 0; i < should.size(); ++i) size = std::max<double>(size, std::abs(should.data()[i]));
    EXPECT_LT(farthest(is, should), tolerance * size) << name;
  }
  /// Those of all adapters of linear layers.
  void expect_gradients() const {
    namespace io = remat::io;
    std::size_t compared = 0;
    for (const auto& linear : io::linears_of(model, io::hugging_face_names("model.")))
      for (const auto& part : lora.parts()) {
        if (part.layer != linear.layer) continue;
        const auto expect = [&](const Tensor<float>& is, const char* half) {
          expect_gradient(is, linear.name + half, lora.config().dora ? 2e-5 : 1e-5);
        };
        expect(io::detail::turned_for_file(part.down.grad()), ".lora_A.weight");
        expect(io::detail::turned_for_file(part.up.grad()), ".lora_B.weight");
        ++compared;
        if (!lora.config().dora) continue;
        const Tensor<double> by_magnitude = part.magnitude.grad();
        expect(io::detail::magnitudes_for_file(by_magnitude, {}, 0, by_magnitude.size()),
               ".lora_magnitude_vector.weight");
      }
    EXPECT_EQ(compared, lora.parts().size());
  }

  ParameterRegistry parameters{};
  remat::models::Decoder<double> model;
  remat::nn::Lora<double> lora;

 private:
  remat::io::SafetensorsFile expected_;
};

/// The tensors of a folder that was written are those of another, bit for bit.
inline void expect_same_adapters(const std::string& folder, const std::string& other) {
  const remat::io::SafetensorsFile ours(folder + "/adapter_model.safetensors"),
      theirs(other + "/adapter_model.safetensors");
  EXPECT_EQ(ours.names(), theirs.names());
  for (const std::string& name : theirs.names())
    EXPECT_EQ(farthest(ours.read<float>(name), theirs.read<float>(name)), 0) << name;
}

}  // namespace remat_test
