// Small models of many shapes, as a planner sees them, and policies to run them under.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "promises/small_models.hpp"

namespace remat_test {

/// A model, its data and its parameters. The policy stands for each outermost region of the step; `everything`: none.
struct PlanModel {
  std::string name;
  std::shared_ptr<remat::ParameterRegistry> parameters;
  std::function<remat::TapeStats(const remat::TapeOptions&, const remat::Policy&)> step;  // forward and backward
  std::function<remat::Plan(const remat::Policy&, const remat::CostModel&)> plan;
  friend void PrintTo(const PlanModel& model, std::ostream* out) { *out << model.name; }
};

/// `record(tape, policy)` records a step and returns its loss.
template <class Record>
PlanModel plan_model(std::string name, std::shared_ptr<remat::ParameterRegistry> parameters, Record record) {
  return {std::move(name), std::move(parameters),
          [record](const remat::TapeOptions& options, const remat::Policy& policy) {
            remat::Tape tape(options);
            tape.backward(record(tape, policy));
            return tape.stats();
          },
          [record](const remat::Policy& policy, const remat::CostModel& cost) {
            return remat::plan([&](remat::Tape& tape) { return record(tape, policy); }, cost);
          }};
}

template <class T = float, class Edit>
PlanModel gpt_model(std::string name, remat::Index batch, const Edit& edit) {
  remat::models::GptConfig config = small_gpt();
  edit(config);
  const auto parameters = std::make_shared<remat::ParameterRegistry>(5);
  const auto gpt = std::make_shared<remat::models::Gpt<T>>(*parameters / "gpt", config);
  const Tokens data = tokens(batch, config.context, config.vocabulary);
  return plan_model(std::move(name), parameters, [=](remat::Tape& tape, const remat::Policy& policy) {
    gpt->decoder.remat = policy;
    return gpt->loss(tape, data);
  });
}

inline void set_remat(SmallEncoderDecoder& model, const remat::Policy& policy) {
  model.encoder.remat = model.decoder.remat = policy;
}
inline void set_remat(SmallRouted& model, const remat::Policy& policy) { model.config.remat = policy; }

template <class Model>
PlanModel small_model(std::string name, const SmallConfig& config) {
  const auto parameters = std::make_shared<remat::ParameterRegistry>(5);
  const auto model = std::make_shared<Model>(*parameters / "model", config);
  const Tokens data = tokens(2, small::length, small::vocabulary);
  return plan_model(std::move(name), parameters, [=](remat::Tape& tape, const remat::Policy& policy) {
    set_remat(*model, policy);
    return model->loss(tape, data);
  });
}

/// [B, T, D] of fixed pseudo-random numbers.
template <class T>
remat::Tensor<T> normal_numbers(const remat::Shape& shape) {
  remat::Tensor<T> made(shape);
  for (remat::Index i = 0; i < made.size(); ++i)
    made.write()[i] = static_cast<T>(remat::RandomStream{3, 0, 0}.normal(static_cast<std::uint64_t>(i)));
  return made.copy();  // tapes share what nobody writes to
}

/// `layers` transformer layers, the mean square as loss. `around(tape, x, layers, policy)` says where regions are.
template <class T, class Edit, class Around>
PlanModel stack_model(std::string name, std::size_t layers, const Edit& edit, const Around& around) {
  remat::nn::TransformerLayerConfig layer{.model_dims = 20, .hidden_dims = 28, .num_heads = 2};
  edit(layer);
  const auto parameters = std::make_shared<remat::ParameterRegistry>(5);
  const auto stack = std::make_shared<remat::nn::StackedTransformer<T>>(
      *parameters / "stack", remat::nn::StackedTransformerConfig{.layers = {layers, layer}});
  const auto x = normal_numbers<T>({2, 9, 20});
  return plan_model(std::move(name), parameters, [=](remat::Tape& tape, const remat::Policy& policy) {
    const auto input = tape.input(x, {.wants_gradient = true});
    return mean(square(around(tape, input, *stack, policy)));
  });
}
template <class T = float, class Edit>
PlanModel stack_model(std::string name, std::size_t layers, const Edit& edit) {
  return stack_model<T>(std::move(name), layers, edit, [](auto&, const auto& x, auto& stack, const auto& policy) {
    stack.remat = policy;
    return stack(x);
  });
}

/// Layers `first` to `last`, each in a region under `inner`.
template <class T>
remat::Var<T> layers_in_regions(remat::Tape& tape, remat::Var<T> h, const remat::nn::StackedTransformer<T>& stack,
                                std::size_t first, std::size_t last, const remat::Policy& inner) {
  for (std::size_t i = first; i < last; ++i) h = tape.checkpoint(inner, [&] { return stack.layers[i](h); });
  return h;
}

/// Halves in regions in halves, down to one layer: log-memory recursion. `policy` rules the outermost halves.
template <class T>
remat::Var<T> halves(remat::Tape& tape, const remat::Var<T>& x, const remat::nn::StackedTransformer<T>& stack,
                     std::size_t first, std::size_t last, const remat::Policy& policy) {
  if (last - first == 1) return stack.layers[first](x);
  const std::size_t middle = (first + last) / 2;
  const auto h = tape.checkpoint(policy, [&] { return halves(tape, x, stack, first, middle, remat::policy::nothing); });
  return tape.checkpoint(policy, [&] { return halves(tape, h, stack, middle, last, remat::policy::nothing); });
}

using remat::models::GptConfig;
using remat::nn::TransformerLayerConfig;

/// GPTs: depth, width, heads, length, batch, dropout, layers to a region, sharing, double.
inline std::vector<PlanModel> gpt_models() {
  std::vector<PlanModel> models;
  const auto add = [&models](const char* name, remat::Index batch, const auto& edit) {
    models.push_back(gpt_model(name, batch, edit));
  };
  add("as it is", 2, [](GptConfig&) {});
  add("one layer", 2, [](GptConfig& c) { c.num_layers = 1; });
  add("no layer", 2, [](GptConfig& c) { c.num_layers = 0; });
  add("seven narrow layers", 1, [](GptConfig& c) { c.num_layers = 7, c.model_dims = 8; });
  add("wide", 2, [](GptConfig& c) { c.model_dims = 72, c.hidden_dims = 40; });
  add("wider inside", 2, [](GptConfig& c) { c.hidden_dims = 200; });
  add("one head", 2, [](GptConfig& c) { c.num_heads = c.num_kv_heads = 1; });
  add("multi-query", 2, [](GptConfig& c) { c.num_kv_heads = 1; });
  add("long", 1, [](GptConfig& c) { c.context = 90; });
  add("one token", 1, [](GptConfig& c) { c.context = 1; });
  add("batch of five", 5, [](GptConfig&) {});
  add("large vocabulary", 2, [](GptConfig& c) { c.vocabulary = 1009; });
  add("dropout", 2, [](GptConfig& c) { c.dropout = 0.1; });
  add("relu, no bias, own head", 2,
      [](GptConfig& c) { c.activation = remat::Activation::relu, c.bias = c.tied_head = false; });
  add("two layers to a region", 2, [](GptConfig& c) { c.num_layers = 5, c.remat_every = 2; });
  add("one region", 2, [](GptConfig& c) { c.remat_every = 3, c.dropout = 0.1; });
  add("shared attention", 2, [](GptConfig& c) {
    c.num_layers = 4;
    c.attention_shared_ids = {"even", "odd", "even", "odd"};
  });
  models.push_back(gpt_model<double>("double", 2, [](GptConfig& c) { c.dropout = 0.1; }));
  return models;
}

/// An encoder-decoder whose regions read from outside, and routed feed-forwards with their discrete choices.
inline std::vector<PlanModel> other_models() {
  return {
      small_model<SmallEncoderDecoder>("encoder-decoder", {}),
      small_model<SmallEncoderDecoder>("encoder-decoder, dropout, one region each", {.dropout = 0.1, .remat_every = 2}),
      small_model<SmallRouted>("routed", {}),
      small_model<SmallRouted>("routed, dropout, one region", {.dropout = 0.1, .remat_every = 2})};
}

/// Stacks of other layers, and regions that nest.
inline std::vector<PlanModel> stack_models() {
  using namespace remat;
  const auto plain = [](TransformerLayerConfig&) {};
  const auto dropped = [](TransformerLayerConfig& c) { c.dropout = c.attention.dropout = c.ffn.dropout = 0.1; };
  const auto gated = [](TransformerLayerConfig& c) {
    c.norm = nn::NormKind::rms_norm, c.ffn.gated = true, c.ffn.activation = Activation::silu;
  };
  const auto gated_dropped = [=](TransformerLayerConfig& c) { gated(c), dropped(c); };
  std::vector<PlanModel> models;
  models.push_back(stack_model("separate qkv", 3, plain));
  models.push_back(stack_model("separate qkv, dropout", 3, dropped));
  models.push_back(stack_model("combined qkv, not causal", 2, [](TransformerLayerConfig& c) {
    c.attention.combined_qkv = true, c.attention.causal = false;
  }));
  models.push_back(stack_model("gated, root mean square", 3, gated));
  models.push_back(stack_model<double>("gated, double, dropout", 3, gated_dropped));
  models.push_back(stack_model("one set of weights", 4, [](TransformerLayerConfig& c) { c.shared_weight_id = "all"; }));
  models.push_back(stack_model<float>(
      "a region of regions", 4, dropped, [](Tape& tape, const auto& x, const auto& stack, const Policy& policy) {
        return tape.checkpoint(policy, [&] { return layers_in_regions(tape, x, stack, 0, 4, policy::dots); });
      }));
  models.push_back(stack_model<float>(
      "two regions of two", 4, plain, [](Tape& tape, const auto& x, const auto& stack, const Policy& policy) {
        const auto h = tape.checkpoint(
            policy, [&] { return layers_in_regions(tape, x, stack, 0, 2, policy::save_context_and_out_proj); });
        return h + tape.checkpoint(policy, [&] { return layers_in_regions(tape, h, stack, 2, 4, policy::nothing); });
      }));
  models.push_back(stack_model<double>("recursion", 8, gated_dropped,
                                       [](Tape& tape, const auto& x, const auto& stack, const Policy& policy) {
                                         return halves(tape, x, stack, 0, 8, policy);
                                       }));
  return models;
}

/// The phrase book, and policies as a user writes them.
inline std::vector<remat::Policy> plan_policies() {
  using namespace remat;
  std::vector<Policy> policies{
      policy::everything, policy::nothing, [](const SlotInfo& slot) { return slot.index % 3 == 0; },
      [](const SlotInfo& slot) { return slot.bytes < 3000 ? Verdict::save : Verdict::offload; }};
  for (const policy::Phrase& phrase : policy::phrase_book()) policies.push_back(phrase.policy);
  for (const char* text : {"dots & !batched", "!dots", "ops(add, layer_norm, rms_norm)", "dots | ops(dropout)",
                           "offload(everything)", "offload(dots) | batched", "offload(!dots)", "any_name & !dots",
                           "lossy::int8", "lossy::bfloat16(!dots) | dots"})
    policies.push_back(policy::parse(text));
  return policies;
}

/// The model's name in letters that a test may have.
inline std::string test_name(const testing::TestParamInfo<PlanModel>& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

/// Runs `f` and returns the most bytes that it held in the pool at once beyond what was there: measured by the pool,
/// which knows of no tape.
template <class F>
std::size_t most_bytes_held(F&& f) {
  const std::size_t before = remat::pool().live_bytes();
  remat::pool().reset_peak();
  f();
  return remat::pool().peak_bytes() - before;
}

}  // namespace remat_test
