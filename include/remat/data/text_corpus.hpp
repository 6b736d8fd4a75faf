// A text as tokens, split into a part to learn and a part to validate.
#pragma once

#include <cerrno>
#include <cstring>
#include <fstream>
#include <remat/data/batches.hpp>
#include <remat/data/vocabulary.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace data {

/// A text, one token a character. The first 90 % are for training, the rest for validation.
class TextCorpus {
 public:
  /// The file, over the characters that it has (see `Vocabulary::of`). An `Error` when it cannot be read or is empty.
  static TextCorpus read_characters(const std::string& path) { return from_string(contents(path), path); }
  /// The file, over all 256 bytes.
  static TextCorpus read_bytes(const std::string& path) {
    return TextCorpus(contents(path), Vocabulary::bytes(), path);
  }
  /// `text` over its own characters; `name` stands for it in errors.
  static TextCorpus from_string(std::string_view text, const std::string& name = "text") {
    return TextCorpus(text, Vocabulary::of(text), name);
  }

  /// Every token is below it.
  Index vocabulary_size() const { return vocabulary_.size(); }
  /// The characters, by token.
  const Vocabulary& vocabulary() const& { return vocabulary_; }
  Vocabulary vocabulary() && { return std::move(vocabulary_); }
  ///@{
  /// As those of `Vocabulary`.
  std::vector<std::int32_t> encode(std::string_view text) const { return vocabulary_.encode(text); }
  std::string decode(std::span<const std::int32_t> tokens) const { return vocabulary_.decode(tokens); }
  ///@}

  /// All tokens.
  std::span<const std::int32_t> tokens() const& { return tokens_; }
  /// The first 90 % of them.
  std::span<const std::int32_t> train_tokens() const& { return tokens().first(train_count()); }
  /// The rest.
  std::span<const std::int32_t> validation_tokens() const& { return tokens().subspan(train_count()); }
  /// Of a temporary corpus: copies, since a span would point into what is gone.
  std::vector<std::int32_t> tokens() && { return std::move(tokens_); }
  std::vector<std::int32_t> train_tokens() && { return copy(train_tokens()); }
  std::vector<std::int32_t> validation_tokens() && { return copy(validation_tokens()); }

  ///@{
  /// Batches that point into this corpus, which must outlive them; their errors name the file.
  RandomBatches train_batches(Index batch, Index length, std::uint64_t seed) const& {
    return {train_tokens(), batch, length, seed, name_ + " (first 90 %)"};
  }
  SequentialBatches validation_batches(Index batch, Index length) const& {
    return {validation_tokens(), batch, length, name_ + " (last 10 %)"};
  }
  ///@}
  void train_batches(Index, Index, std::uint64_t) && = delete;
  void validation_batches(Index, Index) && = delete;

 private:
  TextCorpus(std::string_view text, Vocabulary vocabulary, const std::string& name)
      : name_(name), vocabulary_(std::move(vocabulary)), tokens_(vocabulary_.encode(text)) {
    require(!tokens_.empty(), name, ": is empty; give a file with text");
  }
  static std::vector<std::int32_t> copy(std::span<const std::int32_t> tokens) { return {tokens.begin(), tokens.end()}; }
  // Rounded as `int(0.9 * n)` rounds, so that validation losses compare with nanoGPT's.
  std::size_t train_count() const { return static_cast<std::size_t>(0.9 * static_cast<double>(tokens_.size())); }

  static std::string contents(const std::string& path) {
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    require(file.is_open(), path, ": cannot be opened: ", std::strerror(errno), "; give the path of a text file");
    std::string text;
    std::vector<char> piece(1 << 16);
    do {
      file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
      text.append(piece.data(), static_cast<std::size_t>(file.gcount()));
    } while (file);
    require(!file.bad(), path, ": cannot be read: ", std::strerror(errno), "; give the path of a text file");
    return text;
  }

  std::string name_;
  Vocabulary vocabulary_;
  std::vector<std::int32_t> tokens_;
};

}}}  // namespace remat::data
