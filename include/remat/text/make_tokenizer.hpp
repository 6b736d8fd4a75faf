// A tokenizer from tables in memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <optional>
#include <remat/core/near_misses.hpp>
#include <remat/text/merges.hpp>
#include <remat/text/tokenizer.hpp>
#include <remat/text/tokenizer_tables.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

namespace detail {

/// How llama.cpp cuts words for each name of `tokenizer.ggml.pre`: one pattern after another.
inline PreTokenizer named_pre_tokenizer(const std::string& name) {
  static constexpr std::string_view llama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  static constexpr std::string_view qwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  static const std::map<std::string, std::vector<std::string_view>> patterns = {
      {"gpt-2", {gpt2_words}},
      {"smollm", {R"(\p{N})", gpt2_words}},
      {"llama-bpe", {llama3}},
      {"qwen2", {qwen2}},
      {"falcon", {R"([\p{P}\$\+<=>\^~\|`]+)", gpt2_words, "[0-9][0-9][0-9]"}},
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", gpt2_words, R"(\p{N}+)", "[0-9][0-9][0-9]"}}};
  const auto found = patterns.find(name);
  if (found == patterns.end()) {
    std::vector<std::string> known;
    for (const auto& entry : patterns) known.push_back(entry.first);
    fail("cuts words as \"", name.substr(0, 60), "\", which is not supported", remat::detail::did_you_mean(name, known),
         "; supported are: ", remat::detail::joined(known));
  }
  PreTokenizer pre_tokenizer;
  for (const std::string_view pattern : found->second) pre_tokenizer.add(SplitAt{Pattern::regex(pattern)});
  pre_tokenizer.add(ByteLevel{});
  pre_tokenizer.finish();
  return pre_tokenizer;
}

/// Every way to make a token of two others, ranked by its score: so SentencePiece joins.
inline std::vector<Merge> merges_by_score(const TokenTable& table, const TokenizerTables& tables) {
  const std::size_t count = tables.tokens.size();
  std::vector<std::size_t> order(count);
  for (std::size_t i = 0; i < count; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return tables.scores[a] > tables.scores[b]; });
  std::vector<Merge> merges;
  std::int32_t rank = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0 && tables.scores[order[i]] != tables.scores[order[i - 1]]) ++rank;
    const std::size_t id = order[i];
    const std::string_view token = tables.tokens[id];
    const bool is_joined = tables.types.empty() || tables.types[id] == TokenType::normal;
    if (!is_joined || table.find(token) != static_cast<TokenId>(id) || token.size() > 512) continue;
    for (std::size_t at = 0; at < token.size();) {
      utf8::next(token, at);
      if (at == token.size()) break;
      const auto left = table.find(token.substr(0, at)), right = table.find(token.substr(at));
      if (left && right) merges.push_back({*left, *right, rank, static_cast<TokenId>(id)});
    }
  }
  return merges;
}

inline void make_byte_level(const TokenizerTables& tables, TokenizerParts& parts) {
  parts.pre_tokenizer = named_pre_tokenizer(tables.pre);
  parts.decoder.add(ByteLevelDecoder{});
  std::vector<Merge> merges;
  for (const std::string& merge : tables.merges) merges.push_back(merge_of(parts.table, merge, merges.size()));
  BpeSettings settings;
  settings.is_byte_level = true;
  settings.ignore_merges = tables.pre == "llama-bpe";
  parts.model.emplace<Bpe>(parts.table, merges, std::move(settings));
}

inline void make_sentence_piece(const TokenizerTables& tables, TokenizerParts& parts) {
  require(tables.scores.size() == tables.tokens.size(), "has ", tables.scores.size(), " scores for ",
          tables.tokens.size(), " tokens");
  require(std::none_of(tables.scores.begin(), tables.scores.end(), [](float score) { return std::isnan(score); }),
          "has a score that is not a number");
  static const std::string marker = "\xE2\x96\x81";
  if (tables.add_space_prefix) parts.normalizer.add(Prepend{marker});
  parts.normalizer.add(Replace{Pattern::literal(" "), marker});
  parts.decoder.add(ReplaceDecoder{Pattern::literal(marker), " "});
  parts.decoder.add(ByteFallbackDecoder{});
  parts.decoder.add(Fuse{});
  if (tables.add_space_prefix) parts.decoder.add(StripDecoder{" ", 1, 0});
  BpeSettings settings;
  settings.byte_fallback = settings.fuse_unknown = true;
  settings.unknown = parts.special_ids.unk;
  parts.model.emplace<Bpe>(parts.table, merges_by_score(parts.table, tables), std::move(settings));
}

/// A GGUF file writes "▁word" and "part" where BERT's vocabulary has "word" and "##part".
inline std::string bert_token(const std::string& token, bool is_normal) {
  static constexpr std::string_view marker = "\xE2\x96\x81";
  if (token.compare(0, marker.size(), marker) == 0) return token.substr(marker.size());
  const bool is_bracketed = token.size() > 1 && token.front() == '[' && token.back() == ']';
  return !is_normal || is_bracketed ? token : "##" + token;
}

inline void make_word_piece(TokenizerParts& parts, bool lowercase) {
  SpecialIds& ids = parts.special_ids;
  const std::pair<const char*, std::optional<TokenId>*> names[] = {
      {"[UNK]", &ids.unk}, {"[CLS]", &ids.cls}, {"[SEP]", &ids.sep}, {"[PAD]", &ids.pad}, {"[MASK]", &ids.mask}};
  for (const auto& [name, id] : names)
    if (!*id) *id = parts.table.find(name);
  require(ids.unk && ids.cls && ids.sep, "needs the tokens [UNK], [CLS] and [SEP]");
  BertNormalizer normalizer;
  normalizer.lowercase = lowercase;
  parts.normalizer.add(normalizer);
  parts.pre_tokenizer.add(BertPreTokenizer{});
  parts.decoder.add(WordPieceDecoder{});
  parts.before = {*ids.cls};
  parts.behind = {*ids.sep};
  parts.model.emplace<WordPiece>(parts.table, "##", *ids.unk, 100);
}

inline void add_tokens(const TokenizerTables& tables, TokenizerParts& parts) {
  const std::size_t count = tables.tokens.size();
  require(count > 0, "has no tokens");
  require(count < static_cast<std::size_t>(std::numeric_limits<TokenId>::max()), "has too many tokens");
  require(tables.types.empty() || tables.types.size() == count, "has ", tables.types.size(), " token types for ", count,
          " tokens");
  for (std::size_t i = 0; i < count; ++i) {
    const auto id = static_cast<TokenId>(i);
    const TokenType type = tables.types.empty() ? TokenType::normal : tables.types[i];
    require(type >= TokenType::normal && type <= TokenType::byte, "has the token type ", static_cast<int>(type),
            " for token ", i, ", not one of 1 to 6");
    require(utf8::valid(tables.tokens[i]), "has a token, ", i, ", that is not valid UTF-8");
    const std::string token =
        tables.model == "bert" ? bert_token(tables.tokens[i], type == TokenType::normal) : tables.tokens[i];
    parts.table.add(token, id, true);
    const bool is_found = type == TokenType::unknown || type == TokenType::control || type == TokenType::user_defined;
    if (is_found && !token.empty())
      parts.added.push_back({token, id, type != TokenType::user_defined, false, false, false, false});
    if (type == TokenType::unknown && !parts.special_ids.unk) parts.special_ids.unk = id;
  }
}

inline TokenizerParts parts_of(const TokenizerTables& tables) {
  TokenizerParts parts;
  parts.special_ids = tables.special_ids;
  add_tokens(tables, parts);
  const SpecialIds& ids = parts.special_ids;
  for (const auto& id : {ids.bos, ids.eos, ids.pad, ids.unk, ids.mask, ids.cls, ids.sep})
    require(!id || parts.table.text_of(*id) != nullptr, "gives a role to token ", id.value_or(0),
            ", but there are only ", tables.tokens.size(), " tokens");
  if (tables.model == "gpt2")
    make_byte_level(tables, parts);
  else if (tables.model == "llama")
    make_sentence_piece(tables, parts);
  else if (tables.model == "bert")
    make_word_piece(parts, true);
  else
    fail("has the tokenizer model \"", tables.model.substr(0, 60),
         "\", which is not supported; supported are: gpt2, llama, bert");
  require(!tables.add_bos || ids.bos, "asks for bos before each text, but names none");
  require(!tables.add_eos || ids.eos, "asks for eos behind each text, but names none");
  if (tables.add_bos && tables.model != "bert") parts.before = {*ids.bos};
  if (tables.add_eos && tables.model != "bert") parts.behind = {*ids.eos};
  return parts;
}

/// `make()`, whose errors get the file's name in front.
template <class Make>
auto named(const std::string& name, Make&& make) {
  try {
    return make();
  } catch (const Error& error) {
    fail(name, ": ", std::string_view(error.what()).substr(0, 600));  // tokens in the file may be very long
  }
}

}  // namespace detail

/// A tokenizer from the tables of a GGUF file. What is wrong or not supported is an `Error` that names `tables.name`.
inline Tokenizer make_tokenizer(const TokenizerTables& tables) {
  return Tokenizer(detail::named(tables.name, [&] { return detail::parts_of(tables); }));
}

}}}  // namespace remat::text
