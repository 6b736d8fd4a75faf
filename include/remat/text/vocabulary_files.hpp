// Tokenizers as the first models came with them: vocab.json and merges.txt, vocab.txt.
#pragma once

#include <cstddef>
#include <remat/text/json_model.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/make_tokenizer.hpp>
#include <remat/text/merges.hpp>
#include <remat/text/text_file.hpp>
#include <remat/text/tokenizer.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// What a vocab.txt does not say.
struct WordPieceSettings {
  bool lowercase = true;  // "uncased" models; these also drop accents
};

namespace detail {

/// `f(line)` for each line, without its end.
template <class F>
void each_line(std::string_view text, F&& f) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    f(line);
  }
}

inline TokenizerTables read_vocabulary_json(const std::string& text) {
  const Json json = parse_json(text);
  TokenTable table;
  read_vocabulary(JsonPlace(json, ""), table);
  require(static_cast<std::size_t>(table.size()) == table.count(), "has ", table.count(), " tokens with ids up to ",
          table.size() - 1, "; they must leave no gap");
  TokenizerTables tables;
  for (TokenId id = 0; id < table.size(); ++id) tables.tokens.push_back(*table.text_of(id));
  return tables;
}

}  // namespace detail

/// Reads a byte-level BPE: a vocab.json (GPT-2's encoder.json) and a merges.txt (vocab.bpe). `pre` says how words are
/// cut, see `TokenizerTables::pre`. Tokens that are no bytes and that no merge makes, as <|endoftext|>, are special.
inline Tokenizer load_byte_level_bpe(const std::string& vocabulary_path, const std::string& merges_path,
                                     const std::string& pre = "gpt-2") {
  TokenizerTables tables = detail::named(
      vocabulary_path, [&] { return detail::read_vocabulary_json(detail::read_text_file(vocabulary_path)); });
  detail::each_line(detail::read_text_file(merges_path), [&](std::string_view line) {
    if (!line.empty() && line.substr(0, 8) != "#version") tables.merges.emplace_back(line);
  });
  tables.name = merges_path;
  tables.model = "gpt2";
  tables.pre = pre;
  std::vector<bool> is_made(tables.tokens.size());
  detail::named(merges_path, [&] {
    detail::TokenTable table;
    for (std::size_t i = 0; i < tables.tokens.size(); ++i) table.add(tables.tokens[i], static_cast<TokenId>(i));
    for (const std::string& merge : tables.merges)
      is_made[static_cast<std::size_t>(detail::merge_of(table, merge, 0).joined)] = true;
  });
  for (std::size_t i = 0; i < tables.tokens.size(); ++i) {
    const auto bytes = detail::from_byte_characters(tables.tokens[i]);
    const bool is_byte = bytes && bytes->size() == 1;
    tables.types.push_back(is_byte || is_made[i] ? TokenType::normal : TokenType::control);
    if (tables.tokens[i] == "<|endoftext|>") tables.special_ids.bos = tables.special_ids.eos = static_cast<TokenId>(i);
  }
  return make_tokenizer(tables);
}

/// Reads BERT's vocab.txt, a token a line.
inline Tokenizer load_word_piece(const std::string& path, const WordPieceSettings& settings = {}) {
  return Tokenizer(detail::named(path, [&] {
    detail::TokenizerParts parts;
    detail::each_line(detail::read_text_file(path),
                      [&](std::string_view line) { parts.table.add(line, parts.table.size()); });
    for (const char* const name : {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"})
      if (const auto id = parts.table.find(name)) parts.added.push_back({name, *id, true, false, false, false, false});
    detail::make_word_piece(parts, settings.lowercase);
    return parts;
  }));
}

}}}  // namespace remat::text
