// tokenizer.json, the file of Hugging Face's tokenizers, and what tokenizer_config.json adds.
#pragma once

#include <cstddef>
#include <optional>
#include <remat/text/json_model.hpp>
#include <remat/text/json_parts.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/json_post_processor.hpp>
#include <remat/text/make_tokenizer.hpp>
#include <remat/text/text_file.hpp>
#include <remat/text/tokenizer.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

namespace detail {

inline void read_added_tokens(const JsonPlace& place, TokenizerParts& parts) {
  const std::int64_t limit = id_limit(parts.table.count() + place.size());
  place.each([&](const JsonPlace& entry) {
    entry.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken token;
    token.content = entry["content"].text();
    token.id = static_cast<TokenId>(entry["id"].index(limit));
    token.special = entry["special"].flag();
    token.single_word = entry["single_word"].flag();
    token.lstrip = entry["lstrip"].flag();
    token.rstrip = entry["rstrip"].flag();
    token.normalized = entry["normalized"].flag();
    if (token.content.empty()) entry["content"].refuse("is empty");
    for (const AddedToken& other : parts.added)
      if (other.id == token.id) entry.refuse("has the id ", token.id, ", as \"", other.content, "\" has");
    const auto known = parts.table.find(token.content);
    if (known && *known != token.id)
      entry.refuse("gives \"", token.content.substr(0, 60), "\" the id ", token.id, ", but in the vocabulary it is ",
                   *known);
    if (!known) at_place(entry, [&] { parts.table.add(token.content, token.id); });
    parts.added.push_back(std::move(token));
  });
}

/// Roles by names that mean one thing wherever they are special tokens.
inline void guess_special_ids(TokenizerParts& parts) {
  SpecialIds& ids = parts.special_ids;
  const std::pair<const char*, std::optional<TokenId>*> names[] = {
      {"<s>", &ids.bos},     {"<bos>", &ids.bos},   {"<|begin_of_text|>", &ids.bos},
      {"</s>", &ids.eos},    {"<eos>", &ids.eos},   {"<pad>", &ids.pad},
      {"[PAD]", &ids.pad},   {"<unk>", &ids.unk},   {"[UNK]", &ids.unk},
      {"<mask>", &ids.mask}, {"[MASK]", &ids.mask}, {"[CLS]", &ids.cls},
      {"[SEP]", &ids.sep}};
  for (const auto& [name, id] : names)
    for (const AddedToken& token : parts.added)
      if (!id->has_value() && token.special && token.content == name) *id = token.id;
}

inline TokenizerParts read_tokenizer_json(std::string_view text) {
  const Json json = parse_json(text);
  const JsonPlace file(json, "");
  file.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                   "decoder", "model"});
  if (file.has("version") && file["version"].text() != "1.0")
    file["version"].refuse("is \"", file["version"].text().substr(0, 20), "\", not \"1.0\"");
  TokenizerParts parts;
  if (file.has("normalizer")) parts.normalizer = read_normalizer(file["normalizer"]);
  if (file.has("pre_tokenizer")) parts.pre_tokenizer = read_pre_tokenizer(file["pre_tokenizer"]);
  read_model(file["model"], parts);
  if (file.has("added_tokens")) read_added_tokens(file["added_tokens"], parts);
  if (file.has("post_processor")) read_post_processor(file["post_processor"], parts);
  if (file.has("decoder")) parts.decoder = read_decoder(file["decoder"]);
  if (file.has("truncation"))
    parts.max_length = static_cast<std::size_t>(file["truncation"]["max_length"].index(INT64_MAX));
  guess_special_ids(parts);
  return parts;
}

/// {"bos_token": "<s>" or {"content": "<s>", ...}, ...}: names that the vocabulary lacks are passed over, for such
/// files name tokens that nobody uses.
inline void read_special_names(std::string_view text, TokenizerParts& parts) {
  const Json json = parse_json(text);
  const JsonPlace file(json, "");
  SpecialIds& ids = parts.special_ids;
  const std::pair<const char*, std::optional<TokenId>*> names[] = {
      {"bos_token", &ids.bos},   {"eos_token", &ids.eos}, {"pad_token", &ids.pad}, {"unk_token", &ids.unk},
      {"mask_token", &ids.mask}, {"cls_token", &ids.cls}, {"sep_token", &ids.sep}};
  for (const auto& [name, id] : names) {
    if (!file.has(name)) continue;
    const JsonPlace value = file[name];
    if (const auto found = parts.table.find(value.is_object() ? value["content"].text() : value.text())) *id = found;
  }
}

}  // namespace detail

/// Reads `path`, a tokenizer.json or a folder that has one; a tokenizer_config.json beside it names the tokens with a
/// role. Any file is safe to open: what is wrong or not supported is an `Error` that names the file and the field.
inline Tokenizer load_tokenizer(const std::string& path) {
  struct stat status {};
  const bool is_folder = ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
  const std::string file = is_folder ? path + "/tokenizer.json" : path;
  detail::TokenizerParts parts =
      detail::named(file, [&] { return detail::read_tokenizer_json(detail::read_text_file(file)); });
  const std::string config = file.substr(0, file.rfind('/') + 1) + "tokenizer_config.json";
  if (::stat(config.c_str(), &status) == 0)
    detail::named(config, [&] { detail::read_special_names(detail::read_text_file(config), parts); });
  return Tokenizer(std::move(parts));
}

}}}  // namespace remat::text
