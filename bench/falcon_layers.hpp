// What layers around a fused projection hold and take: memory of backward, rotary, adapters.
#pragma once

#include <functional>
#include <memory>
#include <remat/nn/attention.hpp>
#include <remat/nn/lora.hpp>
#include <remat/plan/plan.hpp>
#include <string>
#include <utility>
#include <vector>

#include "falcon_products.hpp"

namespace bench {

/// Attention layers of one projection and of three: what their steps hold.
struct MemoryReport {
  struct Row {
    FalconShape shape;
    int tokens;
    remat::TapeStats fused, apart;
  };
  std::vector<Row> rows{};

  void print() const {
    std::printf("\n%-48s %7s %14s %14s %14s %14s\n", "attention layer, of x, all weights trained", "tokens",
                "one: kept MiB", "peak MiB", "three: kept", "peak MiB");
    for (const Row& r : rows)
      std::printf("%-48s %7d %14.1f %14.1f %14.1f %14.1f\n", r.shape.name.c_str(), r.tokens, mib(r.fused.saved_bytes),
                  mib(r.fused.peak_bytes), mib(r.apart.saved_bytes), mib(r.apart.peak_bytes));
  }
  void write(const std::string& folder) const {
    auto file = open_csv(folder, "falcon_memory.csv", "model,tokens,variant,saved_bytes,peak_bytes");
    for (const Row& r : rows)
      for (const auto& [name, stats] : {std::pair{"fused", &r.fused}, std::pair{"apart", &r.apart}})
        file << '"' << r.shape.name << "\"," << r.tokens << ',' << name << ',' << stats->saved_bytes << ','
             << stats->peak_bytes << '\n';
  }
};
inline MemoryReport plan_memory(const std::vector<FalconShape>& shapes, int tokens) {
  MemoryReport report;
  for (const FalconShape& shape : shapes) {
    const auto stats_of = [&](bool is_fused) {
      remat::ParameterRegistry parameters;
      const remat::nn::MultiHeadAttention<float> layer(parameters / "attention", {.model_dims = shape.dims,
                                                                                  .num_heads = shape.heads,
                                                                                  .num_kv_heads = shape.kv_heads,
                                                                                  .head_dims = shape.head_dims(),
                                                                                  .causal = true,
                                                                                  .combined_qkv = is_fused,
                                                                                  .bias = false,
                                                                                  .rotary_base = 10'000});
      return remat::planned_step(
                 [&](remat::Tape& tape) {
                   const remat::Tensor<float> x({1, tokens, shape.dims}, 0.0F);
                   return remat::sum(layer(tape.input(x, {.wants_gradient = true})));
                 },
                 remat::CostModel{})
          .stats;
    };
    report.rows.push_back({shape, tokens, stats_of(true), stats_of(false)});
  }
  return report;
}

/// Several ways to one result, each a step of forward and backward.
struct VariantReport {
  struct Row {
    FalconShape shape;
    std::string name;
    std::function<void(Row&)> run{};  // a round
    Timed forward{}, backward{};
    remat::TapeStats stats{};
    remat::Index trained = 0;
  };
  std::string title, file;
  int tokens = 0;
  std::vector<Row> rows{};

  /// Rounds of all rows from `first` on, in turn.
  void measure(std::size_t first, int rounds) {
    for (std::size_t i = first; i < rows.size(); ++i) rows[i].run(rows[i]);  // warms up
    for (std::size_t i = first; i < rows.size(); ++i) rows[i].forward.seconds.clear(), rows[i].backward.seconds.clear();
    for (int round = 0; round < rounds; ++round)
      for (std::size_t i = first; i < rows.size(); ++i) rows[i].run(rows[i]);
    for (std::size_t i = first; i < rows.size(); ++i) rows[i].run = nullptr;  // gives its weights back
  }
  void print() const {
    std::string before;
    for (const Row& r : rows) {
      if (before != r.shape.name)
        std::printf("\n%s, %d tokens; %s\n%-44s %8s %8s %9s %8s %11s %9s %9s %10s\n", r.shape.sizes().c_str(), tokens,
                    title.c_str(), "", "forward", "median", "backward", "median", "moved MiB", "kept MiB", "peak MiB",
                    "trained");
      before = r.shape.name;
      std::printf("%-44s %8.2f %8.2f %9.2f %8.2f %11.1f %9.1f %9.1f %10lld\n", r.name.c_str(),
                  1e3 * best(r.forward.seconds), 1e3 * median(r.forward.seconds), 1e3 * best(r.backward.seconds),
                  1e3 * median(r.backward.seconds), r.stats.moved_bytes / (1 << 20), mib(r.stats.saved_bytes),
                  mib(r.stats.peak_bytes), static_cast<long long>(r.trained));
    }
  }
  void write(const std::string& folder) const {
    auto out = open_csv(folder, file.c_str(),
                        "model,tokens,variant,forward_best_ms,forward_median_ms,backward_best_ms,backward_median_ms,"
                        "moved_bytes,saved_bytes,peak_bytes,trained");
    for (const Row& r : rows)
      out << '"' << r.shape.name << "\"," << tokens << ",\"" << r.name
          << text_of("\",%.4f,%.4f,%.4f,%.4f,%.0f,%zu,%zu,%lld\n", 1e3 * best(r.forward.seconds),
                     1e3 * median(r.forward.seconds), 1e3 * best(r.backward.seconds), 1e3 * median(r.backward.seconds),
                     r.stats.moved_bytes, r.stats.saved_bytes, r.stats.peak_bytes, static_cast<long long>(r.trained));
  }
};
/// A round of `build(x)`, the sum of which is the loss.
template <class Build>
std::function<void(VariantReport::Row&)> step_of(const remat::Tensor<float>& input, Build build) {
  return [=](VariantReport::Row& row) {
    remat::Tape tape({.step = 1});
    const remat::Var<float> x = tape.input(input, {.wants_gradient = true});
    remat::Var<float> y;
    row.forward.seconds.push_back(seconds_of([&] { y = build(x); }));
    const remat::Var<float> loss = remat::sum(y);
    y = {};
    row.backward.seconds.push_back(seconds_of([&] { tape.backward(loss); }));
    row.stats = tape.stats();
  };
}

/// Queries and keys turned inside the attention kernel, on the projection before it, and as heads that are cut out,
/// turned and given to attention.
inline VariantReport measure_rotary(const std::vector<FalconShape>& shapes, int tokens, int rounds) {
  using remat::Index, remat::Tensor, remat::Var;
  VariantReport report{"causal attention on one projection", "falcon_rotary.csv", tokens};
  for (const FalconShape& shape : shapes) {
    const Tensor<float> qkv = noise({1, tokens, shape.outputs()}, 4);
    const Index n = shape.heads, k = shape.kv_heads, h = shape.head_dims();
    const std::size_t first = report.rows.size();
    const auto add = [&](const char* name, auto build) { report.rows.push_back({shape, name, step_of(qkv, build)}); };
    add("rotary inside the kernel",
        [=](const Var<float>& x) { return attention_qkv(x, n, k, {.causal = true, .rotary_base = 10'000}); });
    add("the projection turned, then attention", [=](const Var<float>& x) {
      const Var<float> heads = rotary(x.reshape({1, tokens, n + 2 * k, h}), {.heads = n + k});
      return attention_qkv(heads.reshape(x.shape()), n, k, {.causal = true});
    });
    add("heads cut out, turned, then attention", [=](const Var<float>& x) {
      const auto heads = [&](Index begin, Index count) {
        return slice(x, 2, begin * h, (begin + count) * h).reshape({1, tokens, count, h});
      };
      return attention(rotary(heads(0, n)), rotary(heads(n, k)), heads(n + k, k), {.causal = true});
    });
    add("no rotary", [=](const Var<float>& x) { return attention_qkv(x, n, k, {.causal = true}); });
    report.measure(first, rounds);
  }
  return report;
}

/// A frozen projection: alone, with adapters of the whole of it and of its parts, and with magnitudes.
inline VariantReport measure_lora(const std::vector<FalconShape>& shapes, int tokens, int rank, int rounds) {
  using remat::Index, remat::Tensor, remat::Var;
  VariantReport report{"frozen projection, adapters of rank " + std::to_string(rank), "falcon_lora.csv", tokens};
  for (const FalconShape& shape : shapes) {
    const Tensor<float> input = noise({tokens, shape.dims}, 5);
    const std::size_t first = report.rows.size();
    const Index q = shape.queries(), kv = shape.keys();
    const auto add = [&](const char* name, const std::vector<std::string>& targets, bool dora = false) {
      auto parameters = std::make_shared<remat::ParameterRegistry>(1);
      const remat::nn::Linear<float> layer(*parameters / "a" / "qkv",
                                           {.input_dims = shape.dims, .output_dims = shape.outputs(), .bias = false});
      layer.w.entry()->parts = {{"query", 0, q}, {"key", q, q + kv}, {"value", q + kv, q + 2 * kv}};
      if (targets.empty())
        parameters->freeze("*");
      else
        (void)remat::nn::Lora<float>(*parameters, *parameters / "lora",
                                     {.targets = targets, .rank = rank, .dora = dora});
      report.rows.push_back(
          {shape, name, step_of(input, [layer, parameters](const Var<float>& x) { return layer(x); })});
      report.rows.back().trained = parameters->trainable_count();
    };
    add("no adapter", {});
    add("LoRA on the whole", {"a/qkv"});
    add("LoRA on q, k, v inside it", {"a/query", "a/key", "a/value"});
    add("LoRA on q, v inside it", {"a/query", "a/value"});
    add("DoRA on the whole", {"a/qkv"}, true);
    add("DoRA on q, k, v inside it", {"a/query", "a/key", "a/value"}, true);
    report.measure(first, rounds);
  }
  return report;
}

}  // namespace bench
