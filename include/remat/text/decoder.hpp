// The way back: tokens become text.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <remat/text/byte_alphabet.hpp>
#include <remat/text/pattern.hpp>
#include <remat/text/pre_tokenizer.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

using Tokens = std::vector<std::string>;

inline std::string concatenated(const Tokens& tokens) {
  std::string all;
  for (const std::string& token : tokens) all += token;
  return all;
}

/// A token that is not written in the alphabet of bytes, an added one, stands for itself.
struct ByteLevelDecoder {
  void operator()(Tokens& tokens) const {
    std::string bytes;
    for (const std::string& token : tokens) bytes += from_byte_characters(token).value_or(token);
    tokens = {repaired(bytes)};
  }
};
/// Tokens `<0x..>` are bytes. Where a run of them is no text, each becomes U+FFFD.
struct ByteFallbackDecoder {
  void operator()(Tokens& tokens) const {
    Tokens made;
    std::string bytes;
    const auto end_run = [&] {
      if (utf8::valid(bytes)) {
        if (!bytes.empty()) made.push_back(bytes);
      } else {
        made.insert(made.end(), bytes.size(), "\xEF\xBF\xBD");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      const int byte = byte_of(token);
      if (byte >= 0) {
        bytes += static_cast<char>(byte);
      } else {
        end_run();
        made.push_back(std::move(token));
      }
    }
    end_run();
    tokens = std::move(made);
  }

 private:
  static int byte_of(std::string_view token) {
    if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
    int byte = 0;
    for (const char c : token.substr(3, 2)) {
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                               : -1;
      if (digit < 0) return -1;
      byte = 16 * byte + digit;
    }
    return byte;
  }
};
struct Fuse {
  void operator()(Tokens& tokens) const { tokens = {concatenated(tokens)}; }
};
struct ReplaceDecoder {
  Pattern pattern;
  std::string content{};
  void operator()(Tokens& tokens) const {
    for (std::string& token : tokens) token = pattern.replaced(token, content);
  }
};
/// Up to so many characters `content` at the beginning and the end of each token go.
struct StripDecoder {
  std::string content{};
  std::size_t start = 0, stop = 0;
  void operator()(Tokens& tokens) const {
    for (std::string& token : tokens) {
      std::string_view text = token;
      for (std::size_t i = 0; i < start && text.substr(0, content.size()) == content; ++i)
        text.remove_prefix(content.size());
      for (std::size_t i = 0;
           i < stop && text.size() >= content.size() && text.substr(text.size() - content.size()) == content; ++i)
        text.remove_suffix(content.size());
      token = std::string(text);
    }
  }
};
struct MetaspaceDecoder {
  Metaspace metaspace{};
  void operator()(Tokens& tokens) const {
    const Pattern marker = Pattern::literal(metaspace.replacement);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = marker.replaced(tokens[i], i == 0 && metaspace.prepend != Metaspace::Prepend::never ? "" : " ");
  }
};
/// Tokens with the prefix continue a word. Spaces before punctuation and English contractions may go.
struct WordPieceDecoder {
  std::string prefix = "##";
  bool cleanup = true;
  void operator()(Tokens& tokens) const {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string& token = tokens[i];
      if (i > 0) {
        if (token.compare(0, prefix.size(), prefix) == 0)
          token.erase(0, prefix.size());
        else
          token.insert(0, 1, ' ');
      }
      if (cleanup) token = cleaned(std::move(token));
    }
  }

 private:
  static std::string cleaned(std::string token) {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> rules{{{" .", "."},
                                                                                          {" ?", "?"},
                                                                                          {" !", "!"},
                                                                                          {" ,", ","},
                                                                                          {" ' ", "'"},
                                                                                          {" n't", "n't"},
                                                                                          {" 'm", "'m"},
                                                                                          {" do not", " don't"},
                                                                                          {" 's", "'s"},
                                                                                          {" 've", "'ve"},
                                                                                          {" 're", "'re"}}};
    for (const auto& [from, to] : rules)
      for (std::size_t at = 0; (at = token.find(from, at)) != std::string::npos; at += to.size())
        token.replace(at, from.size(), to);
    return token;
  }
};
/// A suffix ends a word.
struct BpeDecoder {
  std::string suffix = "</w>";
  void operator()(Tokens& tokens) const {
    const Pattern end = Pattern::literal(suffix);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = end.replaced(tokens[i], i + 1 == tokens.size() ? "" : " ");
  }
};

/// Steps, one after another. Without any there are spaces between tokens.
class Decoder {
 public:
  using Step = std::variant<ByteLevelDecoder, ByteFallbackDecoder, Fuse, ReplaceDecoder, StripDecoder, MetaspaceDecoder,
                            WordPieceDecoder, BpeDecoder>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  void set_present() { is_present_ = true; }
  std::string operator()(Tokens tokens) const {
    if (steps_.empty() && !is_present_) {
      for (std::size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, 1, ' ');
      return concatenated(tokens);
    }
    for (const Step& step : steps_) std::visit([&](const auto& decode) { decode(tokens); }, step);
    return concatenated(tokens);
  }

 private:
  std::vector<Step> steps_{};
  bool is_present_ = false;
};

}}}  // namespace remat::text::detail
