// The first stage of a tokenizer: the text is rewritten.
#pragma once

#include <optional>
#include <remat/text/pattern.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

struct Lowercase {
  std::string operator()(std::string_view text) const { return lower_case(text); }
};
struct Normalized {
  NormalForm form = NormalForm::nfc;
  std::string operator()(std::string_view text) const { return normal_form(text, form); }
};
struct StripAccents {
  std::string operator()(std::string_view text) const {
    return filtered(text, [](char32_t c) { return !is_mark(c); });
  }
};
struct Prepend {
  std::string prefix{};
  std::string operator()(std::string_view text) const {
    return text.empty() ? std::string() : prefix + std::string(text);
  }
};
struct Replace {
  Pattern pattern;
  std::string content{};
  std::string operator()(std::string_view text) const { return pattern.replaced(text, content); }
};
struct Strip {
  bool left = true, right = true;
  std::string operator()(std::string_view text) const {
    std::size_t begin = 0, end = text.size();
    for (std::size_t at = 0; left && at < end && is_white_space(utf8::next(text, at));) begin = at;
    if (right) end = begin;
    for (std::size_t at = begin; right && at < text.size();)
      if (!is_white_space(utf8::next(text, at))) end = at;
    return std::string(text.substr(begin, end - begin));
  }
};

/// BERT's: control characters go, all white space is a space, Chinese characters stand alone.
struct BertNormalizer {
  bool clean_text = true, handle_chinese_chars = true, lowercase = true;
  std::optional<bool> strip_accents{};  // as `lowercase` where it is not given

  std::string operator()(std::string_view text) const {
    std::string result(text);
    if (clean_text || handle_chinese_chars) result = cleaned(result);
    if (strip_accents.value_or(lowercase))
      result = filtered(normal_form(result, NormalForm::nfd),
                        [](char32_t c) { return c < 0x80 || category(c) != UTF8PROC_CATEGORY_MN; });
    return lowercase ? lower_case(result) : result;
  }

 private:
  std::string cleaned(std::string_view text) const {
    std::string result;
    result.reserve(text.size());
    each_code_point(text, [&](char32_t c) {
      if (clean_text) {
        if (c == 0 || c == 0xFFFD || is_control(c)) return;
        if (is_white_space(c)) c = ' ';
      }
      const bool is_alone = handle_chinese_chars && is_chinese(c);
      if (is_alone) result += ' ';
      utf8::append(result, c);
      if (is_alone) result += ' ';
    });
    return result;
  }
  static bool is_control(char32_t c) {
    if (c == '\t' || c == '\n' || c == '\r') return false;
    if (c < 0x7F) return c < 0x20;
    const auto kind = category(c);
    return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF || kind == UTF8PROC_CATEGORY_CO ||
           kind == UTF8PROC_CATEGORY_CN;
  }
  static bool is_chinese(char32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  }
};

/// Steps, one after another.
class Normalizer {
 public:
  using Step = std::variant<Lowercase, Normalized, StripAccents, Prepend, Replace, Strip, BertNormalizer>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }
  std::string operator()(std::string_view text) const {
    std::string result(text);
    for (const Step& step : steps_) {
      result = std::visit([&](const auto& rewrite) { return rewrite(result); }, step);
      require_bounded(result.size(), text.size());
    }
    return result;
  }

 private:
  std::vector<Step> steps_{};
};

}}}  // namespace remat::text::detail
