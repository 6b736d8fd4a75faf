// Which matrices are adapted and trained, and what is refused.
#include <gtest/gtest.h>

#include <remat/models/decoder.hpp>
#include <remat/nn/lora.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/gradient_watch.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/adapted_llama.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::small_llama;

TEST(Lora, RefusesWhatItCannotDo) {
  ParameterRegistry parameters;
  auto config = small_llama();
  config.tied_head = false;
  const models::Decoder<float> model(parameters / "m", config);
  const auto make = [&](const nn::LoraConfig& adapters) {
    (void)nn::Lora<float>(parameters, parameters / "l", adapters);
  };
  expect_error({"rank 0"}, [&] { make({.rank = 0}); });
  expect_error({"rank 17", "layer_0/attention/key", "[16, 8]"}, [&] { make({.rank = 17}); });
  expect_error({"alpha"}, [&] { make({.alpha = 0}); });
  expect_error({"dropout"}, [&] { make({.dropout = 1}); });
  expect_error({"targets are empty"}, [&] { make({.targets = {}}); });
  expect_error({"\"*/q_proj\" fits no linear layer", "m/decoder/layer_"}, [&] { make({.targets = {"*/q_proj"}}); });
  for (const auto& entry : parameters.entries()) EXPECT_FALSE(entry->is_frozen || entry->path.starts_with("l/"));
  // A head is no linear layer: `heads` are for it.
  expect_error({"\"m/head\" fits no linear layer"}, [&] { make({.targets = {"m/head"}}); });
}

TEST(LoraOnParts, AreOfThePartOrOfTheWhole) {
  const auto make = [](std::vector<std::string> targets, Index rank = 2) {
    ParameterRegistry parameters;
    const models::Decoder<float> model(parameters / "m", small_llama(true));
    const nn::Lora<float> lora(parameters, parameters / "l", {.targets = std::move(targets), .rank = rank});
    return std::pair(lora.parts().size(), lora.parts().front().pieces.size());
  };
  EXPECT_EQ(make({"*/attention/*"}), std::pair(4UL, 0UL));
  EXPECT_EQ(make({"*/attention/qkv"}), std::pair(2UL, 0UL));
  EXPECT_EQ(make({"*/attention/value"}), std::pair(2UL, 1UL));
  EXPECT_EQ(make({"*/attention/?????", "*_0/attention/key"}), std::pair(2UL, 3UL));
  expect_error(
      {"\"*/attention/query\" is of a part of m/decoder/layer_0/attention/qkv", "\"*/attention/*\" adapts whole"}, [&] {
        make({"*/attention/*", "*/attention/query"});
      });
  expect_error({"rank 9", "key of m/decoder/layer_0/attention/qkv", "[16, 8]"}, [&] {
    make({"*/attention/query", "*/attention/key"}, 9);
  });
  expect_error({"\"*/attention/keys\" fits no linear layer", "attention/key\""}, [&] { make({"*/attention/keys"}); });
}

TEST(GradientWatch, NamesWhatIsNotTrained) {
  ParameterRegistry parameters;
  const nn::Linear<float> used(parameters / "used", {.input_dims = 2, .output_dims = 2}),
      unused(parameters / "unused", {.input_dims = 2, .output_dims = 2});
  optim::GradientWatch watch(parameters, 2);
  const auto step = [&] {
    Tape tape({.step = 1});
    tape.backward(sum(used(tape.input(Tensor<float>({3, 2}, 1.0F)))));
    watch.check();
  };
  step();
  expect_error({"after 2 steps 2 of", "unused/b, unused/w"}, step);
  parameters.freeze("*");
  expect_error({"all 12 parameters are frozen"}, [&] { optim::GradientWatch none(parameters); });
}

// Updates in backward use gradients up: they are looked at before.
TEST(GradientWatch, NamesWhatIsNotTrainedInBackward) {
  ParameterRegistry parameters;
  const nn::Linear<float> used(parameters / "used", {.input_dims = 2, .output_dims = 2}),
      unused(parameters / "unused", {.input_dims = 2, .output_dims = 2});
  optim::GradientWatch watch(parameters, 2);
  optim::AdamW adamw(parameters);
  const Tensor<float> before = used.w.value();
  const auto step = [&] {
    Tape tape({.step = 1});
    tape.backward(sum(used(tape.input(Tensor<float>({3, 2}, 1.0F)))), watch.in_backward(adamw.in_backward(0.1)));
    EXPECT_FALSE(used.w.has_grad());
    watch.check();
  };
  step();
  EXPECT_NE(before.data()[0], used.w.value().data()[0]);
  expect_error({"after 2 steps 2 of", "unused/b, unused/w"}, step);
}

}  // namespace
