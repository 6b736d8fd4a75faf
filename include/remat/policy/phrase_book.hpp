// The policies of jax.checkpoint_policies and of Praxis's AutodiffCheckpointType, by their own names, in our language.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/policy/near_misses.hpp>
#include <remat/policy/policy.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace policy {

namespace detail {

/// Text as a template argument.
template <std::size_t n>
struct Literal {
  char text[n]{};
  constexpr Literal(const char (&from)[n]) { std::copy_n(from, n, text); }
  constexpr std::string_view view() const { return {text, n - 1}; }
};

template <Literal... labels>
inline constexpr std::string_view labels_of[] = {labels.view()...};
template <Literal... labels>
inline constexpr Node named{.kind = Kind::names, .words = labels_of<labels...>};

inline constexpr Node not_batched{.kind = Kind::negation, .left = &leaf<Kind::batched>, .parts = 2};
inline constexpr Node dots_not_batched{
    .kind = Kind::both, .left = &leaf<Kind::dots>, .right = &not_batched, .parts = 4};
inline constexpr Node offloaded_dots_not_batched{.kind = Kind::offload, .left = &dots_not_batched, .parts = 5};

struct Entry {
  constexpr Entry(std::string_view name, const Node& expression, std::string_view says)
      : node{.kind = Kind::phrase, .left = &expression, .phrase = name}, meaning(says) {}
  Node node;
  std::string_view meaning;
};

inline constexpr Entry entries[] = {
    // JAX
    {"everything_saveable", leaf<Kind::everything>, "keep every value"},
    {"nothing_saveable", leaf<Kind::nothing>, "recompute every value"},
    {"dots_saveable", leaf<Kind::dots>, "keep the outputs of contractions"},
    {"dots_with_no_batch_dims_saveable", dots_not_batched, "keep the outputs of contractions without batch axes"},
    {"offload_dot_with_no_batch_dims", offloaded_dots_not_batched,
     "offload the outputs of contractions without batch axes"},
    // Praxis
    {"save_nothing", leaf<Kind::nothing>, "recompute every value"},
    {"save_everything", leaf<Kind::everything>, "keep every value"},
    {"save_dot_only", leaf<Kind::dots>, "keep the outputs of contractions"},
    {"save_dot_with_no_batch_dim", dots_not_batched, "keep the outputs of contractions without batch axes"},
    {"save_qkv_out_proj", named<"combined_qkv_proj", "out_proj">,
     "keep the fused query/key/value projection and attention's output projection"},
    {"save_qkv_out_proj_separate", named<"query_proj", "key_proj", "value_proj", "out_proj">,
     "keep the separate query, key and value projections and attention's output projection"},
    {"save_out_proj", named<"out_proj">, "keep attention's output projection"},
    {"save_context", named<"context">, "keep attention's context"},
    {"save_context_and_out_proj", named<"context", "out_proj">, "keep attention's context and output projection"},
    {"save_dot_for_mlperf_200b",
     named<"combined_qkv_proj", "query_proj", "key_proj", "value_proj", "context", "out_proj">,
     "keep attention's projections, fused or separate, and its context"},
    // A gated feed-forward has two first linears. Praxis forgets the gate, and so keeps half of what it means to.
    {"save_dot_except_logits",
     named<"combined_qkv_proj", "query_proj", "key_proj", "value_proj", "context", "out_proj", "ffn1", "ffn1_gate",
           "ffn2">,
     "keep every contraction of a layer but the attention scores"},
    {"save_dot_except_logits_ffn1",
     named<"combined_qkv_proj", "query_proj", "key_proj", "value_proj", "context", "out_proj", "ffn2">,
     "keep every contraction of a layer but the attention scores and the wide first linears of the feed-forward"},
    {"save_iteration_input", named<"iteration_input">, "keep the input of each pipeline iteration"},
    {"save_transformer_layer_output", named<"transformer_layer_out">, "keep the output of each transformer layer"},
};

constexpr const Entry* find_entry(std::string_view name) {
  for (const Entry& entry : entries)
    if (entry.node.phrase == name) return &entry;
  return nullptr;
}
/// A misspelt name does not compile.
consteval const Node* phrase(std::string_view name) { return &find_entry(name)->node; }

}  // namespace detail

inline constinit const Policy everything_saveable{detail::phrase("everything_saveable")};
inline constinit const Policy nothing_saveable{detail::phrase("nothing_saveable")};
inline constinit const Policy dots_saveable{detail::phrase("dots_saveable")};
inline constinit const Policy dots_with_no_batch_dims_saveable{detail::phrase("dots_with_no_batch_dims_saveable")};
inline constinit const Policy offload_dot_with_no_batch_dims{detail::phrase("offload_dot_with_no_batch_dims")};
inline constinit const Policy save_nothing{detail::phrase("save_nothing")};
inline constinit const Policy save_everything{detail::phrase("save_everything")};
inline constinit const Policy save_dot_only{detail::phrase("save_dot_only")};
inline constinit const Policy save_dot_with_no_batch_dim{detail::phrase("save_dot_with_no_batch_dim")};
inline constinit const Policy save_qkv_out_proj{detail::phrase("save_qkv_out_proj")};
inline constinit const Policy save_qkv_out_proj_separate{detail::phrase("save_qkv_out_proj_separate")};
inline constinit const Policy save_out_proj{detail::phrase("save_out_proj")};
inline constinit const Policy save_context{detail::phrase("save_context")};
inline constinit const Policy save_context_and_out_proj{detail::phrase("save_context_and_out_proj")};
inline constinit const Policy save_dot_for_mlperf_200b{detail::phrase("save_dot_for_mlperf_200b")};
inline constinit const Policy save_dot_except_logits{detail::phrase("save_dot_except_logits")};
inline constinit const Policy save_dot_except_logits_ffn1{detail::phrase("save_dot_except_logits_ffn1")};
inline constinit const Policy save_iteration_input{detail::phrase("save_iteration_input")};
inline constinit const Policy save_transformer_layer_output{detail::phrase("save_transformer_layer_output")};

/// A row of the phrase book. `policy` is the constant (it prints as `name`), `expression` what it stands for.
struct Phrase {
  std::string_view name;     // of the constant
  Policy policy;             // the constant itself
  Policy expression;         // what it stands for
  std::string_view meaning;  // in words
};

/// Every named constant, JAX's first.
inline const std::vector<Phrase>& phrase_book() {
  static const std::vector<Phrase> book = [] {
    std::vector<Phrase> rows;
    for (const detail::Entry& entry : detail::entries)
      rows.push_back({entry.node.phrase, Policy(&entry.node), Policy(entry.node.left), entry.meaning});
    return rows;
  }();
  return book;
}

///@{
/// Values with one of these labels; `names(...)` by its JAX name.
inline Policy save_only_these_names(std::vector<std::string> labels) { return names(std::move(labels)); }
template <class... Labels>
requires detail::Texts<Labels...> Policy save_only_these_names(const Labels&... labels) { return names(labels...); }
///@}

///@{
/// Values with a label, but none of these; values without a label are recomputed.
inline Policy save_any_names_but_these(std::vector<std::string> labels) { return any_name & !names(std::move(labels)); }
template <class... Labels>
requires detail::Texts<Labels...> Policy save_any_names_but_these(const Labels&... labels) {
  return any_name & !names(labels...);
}
///@}

///@{
/// Everything, labelled or not, but values with one of these labels.
inline Policy save_anything_except_these_names(std::vector<std::string> labels) { return !names(std::move(labels)); }
template <class... Labels>
requires detail::Texts<Labels...> Policy save_anything_except_these_names(const Labels&... labels) {
  return !names(labels...);
}
///@}

/// What either policy saves: the logical or, despite the name that JAX gave it.
inline Policy save_from_both_policies(const Policy& a, const Policy& b) { return a | b; }

/// Saves values with a label of the first list, offloads those with one of the second. An `Error` lists the names
/// that are in both, "*" being every name.
inline Policy save_and_offload_only_these_names(std::vector<std::string> save_labels,
                                                std::vector<std::string> offload_labels) {
  std::vector<std::string> overlap;
  for (const std::string& a : save_labels)
    for (const std::string& b : offload_labels)
      if (a == b || a == detail::any_label || b == detail::any_label) overlap.push_back(a == detail::any_label ? b : a);
  require(overlap.empty(), "policy: save_and_offload_only_these_names has names in both its save list and its offload ",
          "list: ", joined(overlap), "; leave each in one");
  return names(std::move(save_labels)) | offload(names(std::move(offload_labels)));
}

}}}  // namespace remat::policy
