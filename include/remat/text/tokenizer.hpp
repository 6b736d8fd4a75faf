// Text to tokens and back, as a model learned them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <remat/text/added_tokens.hpp>
#include <remat/text/bpe.hpp>
#include <remat/text/decoder.hpp>
#include <remat/text/normalizer.hpp>
#include <remat/text/pre_tokenizer.hpp>
#include <remat/text/token_table.hpp>
#include <remat/text/tokenizer_tables.hpp>
#include <remat/text/unigram.hpp>
#include <remat/text/word_cache.hpp>
#include <remat/text/word_piece.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// How a text becomes tokens.
struct EncodeOptions {
  bool add_special_tokens = true;    // those that the tokenizer puts around a text, such as [CLS] and [SEP]
  bool parse_special_tokens = true;  // "<|endoftext|>" in the text is that token; false: text like any other
};

/// How tokens become a text.
struct DecodeOptions {
  bool skip_special_tokens = false;  // leaves out those that are for the model, not for readers
};

namespace detail {

/// What a tokenizer is made of. Loaders fill it.
struct TokenizerParts {
  TokenTable table{};               // all tokens, added ones too
  std::vector<AddedToken> added{};  // those that are looked for in the text
  Normalizer normalizer{};
  PreTokenizer pre_tokenizer{};
  std::variant<std::monostate, Bpe, Unigram, WordPiece> model{};
  Decoder decoder{};
  std::vector<TokenId> before{}, behind{};  // the tokens around a text
  SpecialIds special_ids{};
  std::optional<std::size_t> max_length{};
};

}  // namespace detail

/// Encodes and decodes. Made by `load_tokenizer`, `load_byte_level_bpe`, `load_word_piece` or `make_tokenizer`. Copies
/// share what was loaded; several threads may use one at a time.
class Tokenizer {
 public:
  /// From what a loader has read.
  explicit Tokenizer(detail::TokenizerParts parts) : shared_(std::make_shared<Shared>(std::move(parts))) {}

  /// The tokens of a text in UTF-8; an `Error` names the first byte that is none. Texts are not cut, whatever their
  /// length: see `max_length`.
  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const {
    const std::size_t invalid = detail::first_invalid(text);
    require(invalid == text.size(), "tokenizer: the text to encode is not valid UTF-8 at byte ", invalid, " of ",
            text.size(), "; convert it to UTF-8");
    Encoding encoding{*this, text, options, {}, {}, {}};
    std::unique_lock lock(shared_->mutex, std::try_to_lock);
    detail::WordCache own;
    encoding.cache = lock ? &shared_->cache : &own;
    if (options.add_special_tokens) encoding.ids = parts().before;
    encoding.run();
    if (options.add_special_tokens)
      encoding.ids.insert(encoding.ids.end(), parts().behind.begin(), parts().behind.end());
    return std::move(encoding.ids);
  }

  /// The text of the tokens; what is no UTF-8 becomes U+FFFD. An `Error` names an id that is no token.
  std::string decode(std::span<const TokenId> ids, const DecodeOptions& options = {}) const {
    detail::Tokens tokens;
    tokens.reserve(ids.size());
    for (const TokenId id : ids) {
      const std::string& token = token_of(id);
      const std::string* const shape = shared_->added.shape_of(id);
      if (!options.skip_special_tokens || !is_special(id)) tokens.push_back(shape ? *shape : token);
    }
    return parts().decoder(std::move(tokens));
  }

  /// One above the largest id: the number of rows that an embedding needs.
  TokenId vocabulary_size() const { return parts().table.size(); }
  /// The id of a token, as it is written in the file ("Ġthe"); nothing where there is none.
  std::optional<TokenId> id_of(std::string_view token) const { return parts().table.find(token); }
  /// A token as it is written in the file; an `Error` where no token has this id.
  const std::string& token_of(TokenId id) const {
    const std::string* const token = parts().table.text_of(id);
    require(token != nullptr, "tokenizer: id ", id, " is no token; there are ", parts().table.count(),
            " tokens, all below ", vocabulary_size());
    return *token;
  }
  /// Is it for the model, not for readers?
  bool is_special(TokenId id) const { return shared_->added.is_special(id); }
  /// The tokens with a role, where they are known.
  const SpecialIds& special_ids() const { return parts().special_ids; }
  /// The tokens that are looked for in the text as a whole.
  const std::vector<AddedToken>& added_tokens() const { return parts().added; }
  /// The number of tokens to which the file asks to cut texts. Nothing here does so: it is a matter of batches.
  std::optional<std::size_t> max_length() const { return parts().max_length; }

 private:
  struct Shared {
    explicit Shared(detail::TokenizerParts all) : parts(std::move(all)), added(parts.added, parts.normalizer) {}
    detail::TokenizerParts parts;
    detail::AddedTokens added;
    std::mutex mutex{};  // of the cache
    detail::WordCache cache{};
  };

  // One text on its way.
  struct Encoding {
    const Tokenizer& tokenizer;
    std::string_view text;
    const EncodeOptions& options;
    std::vector<TokenId> ids;
    detail::WordCache* cache;
    detail::Pieces pieces;

    void run() {
      const detail::AddedTokens& added = tokenizer.shared_->added;
      for (const auto& [begin, end, id] : added.in_raw(text, options.parse_special_tokens)) {
        if (id >= 0)
          ids.push_back(id);
        else
          between(text.substr(begin, end - begin), begin == 0);
      }
    }
    // Text between added tokens.
    void between(std::string_view part, bool is_first) {
      const detail::TokenizerParts& parts = tokenizer.parts();
      if (!parts.normalizer.empty()) part = pieces.keep(parts.normalizer(part));
      for (const auto& [begin, end, id] : tokenizer.shared_->added.in_normalized(part, options.parse_special_tokens)) {
        if (id >= 0) {
          ids.push_back(id);
        } else if (end > begin) {
          pieces.all = {{part.substr(begin, end - begin), is_first && begin == 0}};
          parts.pre_tokenizer(pieces);
          words(parts);
        }
      }
      pieces.made.clear();
    }
    void words(const detail::TokenizerParts& parts) {
      using Bytes = detail::PreTokenizer::Bytes;
      const Bytes bytes = parts.pre_tokenizer.bytes();
      const auto* const bpe = std::get_if<detail::Bpe>(&parts.model);
      for (const detail::Piece& piece : pieces.all) {
        if (bpe != nullptr && bytes == Bytes::as_characters)
          word(*bpe, detail::from_byte_characters(piece.text).value_or(""));
        else if (bpe != nullptr)
          bpe->each_part(piece.text, [&](std::string_view part) { word(*bpe, part); });
        else if (bytes == Bytes::as_bytes)
          any_word(parts, detail::to_byte_characters(piece.text));
        else
          any_word(parts, piece.text);
      }
    }
    void any_word(const detail::TokenizerParts& parts, std::string_view piece) {
      if (const auto* const unigram = std::get_if<detail::Unigram>(&parts.model)) word(*unigram, piece);
      if (const auto* const word_piece = std::get_if<detail::WordPiece>(&parts.model)) word(*word_piece, piece);
    }
    template <class Model>
    void word(const Model& model, std::string_view piece) {
      cache->append(piece, ids, model);
    }
  };

  const detail::TokenizerParts& parts() const { return shared_->parts; }

  std::shared_ptr<Shared> shared_;
};

}}}  // namespace remat::text
