// The slots of one transformer layer, made by hand: what the policies of these tests are asked about.
#pragma once

#include <map>
#include <remat/policy/policy.hpp>
#include <string>
#include <vector>

namespace sample {

/// The set of one label, kept for the life of the program; empty for "".
inline const std::vector<std::string>& label(const std::string& name) {
  static std::map<std::string, std::vector<std::string>> sets{{"", {}}};
  return sets.try_emplace(name, 1, name).first->second;
}

/// A slot without a label: neither dot nor batched.
inline remat::SlotInfo plain(const char* op) { return {.op = op, .shape = {2, 3}, .bytes = 24}; }
inline remat::SlotInfo dot(const char* name) { return {.op = "linear", .labels = label(name), .dot = true}; }

inline std::vector<remat::SlotInfo> layer() {
  static const std::vector<std::string> both = {"ffn1", "mine"};
  std::vector<remat::SlotInfo> slots;
  for (const char* name : {"combined_qkv_proj", "query_proj", "key_proj", "value_proj", "out_proj", "ffn1", "ffn1_gate",
                           "ffn2", "moe_router", ""})
    slots.push_back(dot(name));
  slots.push_back({.op = "attention", .labels = label("context"), .dot = true, .batched = true});
  slots.push_back({.op = "linear", .labels = both, .dot = true});
  slots.push_back({.op = "matmul", .dot = true, .batched = true});
  for (const char* name : {"transformer_layer_out", "iteration_input"})
    slots.push_back({.op = "add", .labels = label(name)});
  for (const char* op : {"sin", "gelu", "layer_norm"}) slots.push_back(plain(op));
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i].index = static_cast<remat::Index>(i);
  return slots;
}

}  // namespace sample
