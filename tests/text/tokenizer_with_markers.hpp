// The small tokenizers of the golden files with the markers of chat formats as tokens, which only some have of their
// own.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>

namespace remat_test {

inline text::Tokenizer tokenizer_with_markers(const std::string& name) {
  auto json = nlohmann::json::parse(text::detail::read_text_file(golden_folder + name + ".json"));
  auto& added = json["added_tokens"];
  int id = 5000;
  for (const char* marker : {"<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
                             "<|end_header_id|>", "<|eot_id|>", "<bos>", "<start_of_turn>", "<end_of_turn>"}) {
    bool is_there = false;
    for (const auto& token : added) is_there |= token["content"] == marker;
    if (is_there) continue;
    added.push_back({{"id", id++},
                     {"content", marker},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  auto& vocabulary = json["model"]["vocab"];
  if (vocabulary.contains("Ċ") && !vocabulary.contains("ĊĊ")) {
    vocabulary["ĊĊ"] = id;
    const bool are_pairs = json["model"]["merges"].front().is_array();
    json["model"]["merges"].push_back(are_pairs ? nlohmann::json({"Ċ", "Ċ"}) : nlohmann::json("Ċ Ċ"));
  }
  return text::Tokenizer(text::detail::read_tokenizer_json(json.dump()));
}

}  // namespace remat_test
