// The phrase book means what JAX and Praxis mean, on the slots of a hand-made layer.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <remat/policy/phrase_book.hpp>
#include <set>

#include "policy/sample_slots.hpp"

namespace {

using namespace remat::policy;

std::string described(const SlotInfo& slot) {
  std::string text(slot.op);
  for (const std::string& label : slot.labels) text += ":" + label;
  return text;
}

std::set<std::string> with(const Policy& policy, Verdict verdict) {
  std::set<std::string> found;
  for (const SlotInfo& slot : sample::layer())
    if (policy(slot) == verdict) found.insert(described(slot));
  return found;
}
std::set<std::string> saved(const Policy& policy) { return with(policy, Verdict::save); }

using Set = std::set<std::string>;

Set united(Set a, const Set& b) {
  a.insert(b.begin(), b.end());
  return a;
}

const Set linears = {"linear",          "linear:combined_qkv_proj", "linear:query_proj",
                     "linear:key_proj", "linear:value_proj",        "linear:out_proj",
                     "linear:ffn1",     "linear:ffn1:mine",         "linear:ffn1_gate",
                     "linear:ffn2",     "linear:moe_router"};
const Set batched_dots = {"attention:context", "matmul"};
const Set others = {"add:transformer_layer_out", "add:iteration_input", "sin", "gelu", "layer_norm"};
const Set all = united(united(linears, batched_dots), others);
const Set mlperf = {"linear:combined_qkv_proj", "linear:query_proj", "linear:key_proj",
                    "linear:value_proj",        "linear:out_proj",   "attention:context"};

TEST(PhraseBook, SavesWhatItSays) {
  const std::map<std::string_view, Set> expected = {
      {"everything_saveable", all},
      {"nothing_saveable", {}},
      {"dots_saveable", united(linears, batched_dots)},
      {"dots_with_no_batch_dims_saveable", linears},
      {"offload_dot_with_no_batch_dims", {}},
      {"save_nothing", {}},
      {"save_everything", all},
      {"save_dot_only", united(linears, batched_dots)},
      {"save_dot_with_no_batch_dim", linears},
      {"save_qkv_out_proj", {"linear:combined_qkv_proj", "linear:out_proj"}},
      {"save_qkv_out_proj_separate", {"linear:query_proj", "linear:key_proj", "linear:value_proj", "linear:out_proj"}},
      {"save_out_proj", {"linear:out_proj"}},
      {"save_context", {"attention:context"}},
      {"save_context_and_out_proj", {"attention:context", "linear:out_proj"}},
      {"save_dot_for_mlperf_200b", mlperf},
      {"save_dot_except_logits_ffn1", united(mlperf, {"linear:ffn2"})},
      {"save_dot_except_logits",
       united(mlperf, {"linear:ffn2", "linear:ffn1", "linear:ffn1:mine", "linear:ffn1_gate"})},
      {"save_iteration_input", {"add:iteration_input"}},
      {"save_transformer_layer_output", {"add:transformer_layer_out"}},
  };
  ASSERT_EQ(phrase_book().size(), expected.size());
  for (const Phrase& phrase : phrase_book()) {
    ASSERT_TRUE(expected.count(phrase.name)) << phrase.name;
    EXPECT_EQ(saved(phrase.policy), expected.at(phrase.name)) << phrase.name;
    EXPECT_EQ(saved(phrase.expression), expected.at(phrase.name)) << phrase.name;
    EXPECT_EQ(with(phrase.policy, Verdict::offload), phrase.name == "offload_dot_with_no_batch_dims" ? linears : Set{});
    EXPECT_FALSE(phrase.meaning.empty());
  }
}

TEST(PhraseBook, ConstantsAreItsRows) {
  const Policy constants[] = {everything_saveable,
                              nothing_saveable,
                              dots_saveable,
                              dots_with_no_batch_dims_saveable,
                              offload_dot_with_no_batch_dims,
                              save_nothing,
                              save_everything,
                              save_dot_only,
                              save_dot_with_no_batch_dim,
                              save_qkv_out_proj,
                              save_qkv_out_proj_separate,
                              save_out_proj,
                              save_context,
                              save_context_and_out_proj,
                              save_dot_for_mlperf_200b,
                              save_dot_except_logits,
                              save_dot_except_logits_ffn1,
                              save_iteration_input,
                              save_transformer_layer_output};
  ASSERT_EQ(std::size(constants), phrase_book().size());
  for (std::size_t i = 0; i < phrase_book().size(); ++i) EXPECT_EQ(constants[i], phrase_book()[i].policy);
}

TEST(PhraseBook, StandsForReadableExpressions) {
  const auto expression = [](std::string_view name) {
    const auto& book = phrase_book();
    return to_string(
        std::find_if(book.begin(), book.end(), [&](const Phrase& p) { return p.name == name; })->expression);
  };
  EXPECT_EQ(expression("save_dot_with_no_batch_dim"), "dots & !batched");
  EXPECT_EQ(expression("offload_dot_with_no_batch_dims"), "offload(dots & !batched)");
  EXPECT_EQ(expression("save_qkv_out_proj"), "names(combined_qkv_proj, out_proj)");
}

TEST(PhraseBook, FunctionsOfNames) {
  const Set named = {
      "linear:combined_qkv_proj", "linear:query_proj", "linear:key_proj",   "linear:value_proj", "linear:out_proj",
      "linear:ffn1_gate",         "linear:ffn2",       "linear:moe_router", "attention:context", "add:iteration_input",
      "add:transformer_layer_out"};
  EXPECT_EQ(saved(save_only_these_names("ffn1", "context")),
            (Set{"linear:ffn1", "linear:ffn1:mine", "attention:context"}));
  EXPECT_EQ(saved(save_any_names_but_these("ffn1")), named);
  EXPECT_EQ(saved(save_any_names_but_these()), united(named, {"linear:ffn1", "linear:ffn1:mine"}));
  EXPECT_EQ(saved(save_anything_except_these_names("ffn1")),
            united(named, {"linear", "matmul", "sin", "gelu", "layer_norm"}));
  EXPECT_EQ(saved(save_anything_except_these_names()), all);
  EXPECT_EQ(saved(save_from_both_policies(batched, ops("sin"))), united(batched_dots, {"sin"}));
  const std::vector<std::string> list = {"ffn2", "context"};
  EXPECT_EQ(save_only_these_names(list), names("ffn2", "context"));
  EXPECT_EQ(save_any_names_but_these(list), save_any_names_but_these("ffn2", "context"));
  EXPECT_EQ(save_anything_except_these_names(list), save_anything_except_these_names("ffn2", "context"));
}

TEST(PhraseBook, SaveAndOffload) {
  const Policy p = save_and_offload_only_these_names({"ffn1"}, {"context", "ffn2"});
  EXPECT_EQ(saved(p), (Set{"linear:ffn1", "linear:ffn1:mine"}));
  EXPECT_EQ(with(p, Verdict::offload), (Set{"attention:context", "linear:ffn2"}));
}

std::string overlap(const std::vector<std::string>& save_labels, const std::vector<std::string>& offload_labels) {
  try {
    save_and_offload_only_these_names(save_labels, offload_labels);
  } catch (const remat::Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(PhraseBook, ANameIsSavedOrOffloaded) {
  EXPECT_EQ(overlap({"a", "b", "c"}, {"c", "d", "b"}),
            "policy: save_and_offload_only_these_names has names in both its save list and its offload list: b, c; "
            "leave each in one");
  EXPECT_EQ(overlap({"*"}, {"c"}),
            "policy: save_and_offload_only_these_names has names in both its save list and its offload list: c; "
            "leave each in one");
  EXPECT_EQ(overlap({"a"}, {"b"}), "no error");
  EXPECT_EQ(overlap({"*"}, {}), "no error");
}

}  // namespace
