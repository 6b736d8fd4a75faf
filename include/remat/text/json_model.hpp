// The model of a tokenizer.json: vocabulary, merges, scores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <remat/text/json_parts.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/merges.hpp>
#include <remat/text/tokenizer.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// Ids of a vocabulary of `count` tokens may leave gaps, but none that asks for much more memory than the file.
inline std::int64_t id_limit(std::size_t count) { return 2 * static_cast<std::int64_t>(count) + 65536; }

/// {"token": id, ...}
inline void read_vocabulary(const JsonPlace& place, TokenTable& table) {
  std::size_t count = 0;
  place.each_member([&](const std::string&, const JsonPlace&) { ++count; });
  place.each_member([&](const std::string& token, const JsonPlace& id) {
    const auto number = static_cast<TokenId>(id.index(id_limit(count)));
    at_place(place, [&] { table.add(token, number); });
  });
}

inline void read_bpe(const JsonPlace& model, TokenizerParts& parts) {
  model.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                    "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (model.has("dropout") && model["dropout"].number() != 0)
    model["dropout"].refuse("is not 0; merges left out at random are not supported");
  read_vocabulary(model["vocab"], parts.table);
  BpeSettings settings;
  settings.is_byte_level = parts.pre_tokenizer.bytes() != PreTokenizer::Bytes::as_text;
  settings.byte_fallback = model.flag("byte_fallback", false);
  settings.fuse_unknown = model.flag("fuse_unk", false);
  settings.ignore_merges = model.flag("ignore_merges", false);
  settings.continuing_prefix = model.text("continuing_subword_prefix", "");
  settings.end_suffix = model.text("end_of_word_suffix", "");
  if (settings.is_byte_level && !(settings.continuing_prefix.empty() && settings.end_suffix.empty()))
    model.refuse("marks parts of words, which is not supported together with ByteLevel");
  if (settings.is_byte_level && settings.byte_fallback)
    model.refuse("has byte_fallback, which is not supported together with ByteLevel");
  if (model.has("unk_token")) {
    settings.unknown = parts.table.find(model["unk_token"].text());
    if (!settings.unknown) model["unk_token"].refuse("is not in the vocabulary");
    parts.special_ids.unk = settings.unknown;
  }
  std::vector<Merge> merges;
  model["merges"].each([&](const JsonPlace& merge) {
    merges.push_back(at_place(merge, [&] {
      if (merge.is_string()) return merge_of(parts.table, merge.text(), merges.size(), settings.continuing_prefix);
      if (merge.size() != 2) merge.refuse("is not two tokens");
      return merge_of(parts.table, merge[std::size_t{0}].text(), merge[1].text(), merges.size(),
                      settings.continuing_prefix);
    }));
  });
  parts.model.emplace<Bpe>(parts.table, merges, std::move(settings));
}

inline void read_unigram(const JsonPlace& model, TokenizerParts& parts) {
  model.allow_only({"type", "unk_id", "vocab", "byte_fallback"});
  std::vector<double> scores;
  model["vocab"].each([&](const JsonPlace& entry) {
    if (entry.size() != 2) entry.refuse("is no pair of a token and its score");
    at_place(entry, [&] { parts.table.add(entry[std::size_t{0}].text(), static_cast<TokenId>(scores.size())); });
    scores.push_back(entry[1].number());
  });
  if (model.has("unk_id"))
    parts.special_ids.unk = static_cast<TokenId>(model["unk_id"].index(static_cast<std::int64_t>(scores.size())));
  parts.model.emplace<Unigram>(parts.table, std::move(scores), parts.special_ids.unk,
                               model.flag("byte_fallback", false));
}

inline void read_word_piece(const JsonPlace& model, TokenizerParts& parts) {
  model.allow_only({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
  read_vocabulary(model["vocab"], parts.table);
  parts.special_ids.unk = parts.table.find(model["unk_token"].text());
  if (!parts.special_ids.unk) model["unk_token"].refuse("is not in the vocabulary");
  parts.model.emplace<WordPiece>(parts.table, model["continuing_subword_prefix"].text(), *parts.special_ids.unk,
                                 static_cast<std::size_t>(model["max_input_chars_per_word"].index(INT32_MAX)));
}

inline void read_model(const JsonPlace& model, TokenizerParts& parts) {
  const std::string& type = model["type"].text();
  if (type == "BPE") return read_bpe(model, parts);
  if (type == "Unigram") return read_unigram(model, parts);
  if (type == "WordPiece") return read_word_piece(model, parts);
  model["type"].refuse("is \"", type.substr(0, 60),
                       "\", which is not supported; supported are: BPE, Unigram, WordPiece");
}

}}}  // namespace remat::text::detail
