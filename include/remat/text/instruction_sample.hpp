// Conversations as samples to learn from: which tokens are the assistant's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <remat/core/error.hpp>
#include <remat/core/token_samples.hpp>
#include <remat/text/chat.hpp>
#include <remat/text/tokenizer.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// Tokens, and which of them are to be predicted from those before: never the first.
struct InstructionSample {
  std::vector<TokenId> ids{};             // the whole
  std::vector<std::uint8_t> is_target{};  // of each id: 1 where it is to be predicted

  /// How many tokens are to be predicted.
  std::size_t target_count() const { return static_cast<std::size_t>(view().target_count()); }
  /// The same as spans, good as long as this sample.
  data::TokenSample view() const& { return {ids, is_target}; }
  void view() && = delete;

  /// Cuts the end off so that a context of `context` positions sees all that is left: one token more, since the last is
  /// only predicted. False where no target is left.
  bool truncate(std::size_t context) {
    if (ids.size() > context + 1) {
      ids.resize(context + 1);
      is_target.resize(context + 1);
    }
    return target_count() > 0;
  }
};

namespace detail {

inline constexpr EncodeOptions as_written{.add_special_tokens = false};

/// Finds where places of a text are in its tokens. The tokens are those of the whole text: a place is looked for by
/// encoding what is before it, which must give the tokens' beginning.
class TokenPlaces {
 public:
  TokenPlaces(const Tokenizer& tokenizer, std::string_view text)
      : tokenizer_(tokenizer), text_(text), ids_(tokenizer.encode(text, as_written)) {}

  /// All tokens; call it last.
  std::vector<TokenId> take_ids() { return std::move(ids_); }
  const std::vector<TokenId>& ids() const { return ids_; }

  /// The first token that begins at byte `place` or behind it. Places are asked for in ascending order.
  std::size_t first_token_from(std::size_t place) {
    // What lies between two places mostly gives the same tokens alone, so that long conversations take linear time.
    std::vector<TokenId> before = tokenizer_.encode(text_.substr(byte_, place - byte_), as_written);
    std::size_t begin = token_, equal = common_length(before, begin);
    if (equal < before.size() && byte_ > 0) {
      before = tokenizer_.encode(text_.substr(0, place), as_written);
      begin = 0;
      equal = common_length(before, begin);
    }
    token_ = begin + equal;
    if (equal < before.size()) token_ += across(std::span<const TokenId>(before).subspan(equal));
    byte_ = place;
    return token_;
  }

 private:
  // Where a token reaches across the place: as many are passed over as write all that is before it. Normalizers may
  // write it otherwise, so that a few bytes more are enough.
  std::size_t across(std::span<const TokenId> before) const {
    const auto rest = std::span<const TokenId>(ids_).subspan(token_);
    const std::string wanted = tokenizer_.decode(before);
    std::size_t count = 0;
    for (; count < rest.size(); ++count) {
      const std::string written = tokenizer_.decode(rest.first(count));
      if (written.starts_with(wanted) || written.size() > wanted.size() + 8) break;
    }
    return count;
  }
  std::size_t common_length(const std::vector<TokenId>& part, std::size_t begin) const {
    const auto from = ids_.begin() + static_cast<std::ptrdiff_t>(begin);
    return static_cast<std::size_t>(std::mismatch(part.begin(), part.end(), from, ids_.end()).first - part.begin());
  }

  const Tokenizer& tokenizer_;
  std::string_view text_;
  std::vector<TokenId> ids_;
  std::size_t byte_ = 0, token_ = 0;  // the last place
};

// Of texts without a chat format: as the tokenizer begins texts, and as the model ends them.
inline void add_begin_and_end(const Tokenizer& tokenizer, InstructionSample& sample) {
  const auto [bos, eos] = std::pair(tokenizer.special_ids().bos, tokenizer.special_ids().eos);
  const std::vector<TokenId> around = tokenizer.encode("");
  if (bos && !around.empty() && around.front() == *bos && (sample.ids.empty() || sample.ids.front() != *bos)) {
    sample.ids.insert(sample.ids.begin(), *bos);
    sample.is_target.insert(sample.is_target.begin(), 0);
  }
  if (eos && (sample.ids.empty() || sample.ids.back() != *eos)) {
    sample.ids.push_back(*eos);
    sample.is_target.push_back(1);
  }
  if (!sample.is_target.empty()) sample.is_target.front() = 0;  // nothing is before it
  require(sample.target_count() > 0, "has no token to learn: give a longer text");
}

}  // namespace detail

/// A conversation: the tokens of `encode_chat`, and as targets, in each of the assistant's turns, what is said and the
/// token that ends the turn (for `ChatStyle::plain`, the line's end). A token that begins in the header and ends in
/// what is said, as where SmolLM2's line end and an answer's blank lines become one, is no target: when the model is
/// asked, the header is there already.
inline InstructionSample chat_sample(const Tokenizer& tokenizer, const ChatFormat& format,
                                     const std::vector<ChatMessage>& messages) {
  detail::require_markers(tokenizer, format);
  const RenderedChat chat = render_chat_with_answers(format, messages);
  require(!chat.answers.empty(), "chat: the conversation has no turn of the assistant, so there is nothing to learn");
  detail::TokenPlaces places(tokenizer, chat.text);
  InstructionSample sample{{}, std::vector<std::uint8_t>(places.ids().size())};
  const std::string_view marker = detail::end_of_turn(format);
  for (const auto& [begin, end] : chat.answers) {
    const std::size_t first = places.first_token_from(begin), last = places.first_token_from(end);
    require(marker.empty() || (first < last && places.ids()[last - 1] == tokenizer.id_of(marker)),
            "chat: the tokenizer does not read ", marker,
            " as one token; choose the format that the model was trained "
            "with");
    std::fill(sample.is_target.begin() + static_cast<std::ptrdiff_t>(first),
              sample.is_target.begin() + static_cast<std::ptrdiff_t>(last), std::uint8_t{1});
  }
  sample.ids = places.take_ids();
  if (!sample.is_target.empty()) sample.is_target.front() = 0;
  return sample;
}

/// A text to go on, and how: the tokens of both joined, the targets those that begin in `completion`. As texts are
/// trained on without a chat format, the token that begins texts comes first where the tokenizer puts one there, and
/// the one that ends them, a target, comes last where there is one. An `Error` where nothing is left to learn.
inline InstructionSample completion_sample(const Tokenizer& tokenizer, std::string_view prompt,
                                           std::string_view completion) {
  const std::string text = std::string(prompt) + std::string(completion);
  detail::TokenPlaces places(tokenizer, text);
  const std::size_t first = places.first_token_from(prompt.size());
  InstructionSample sample{{}, std::vector<std::uint8_t>(places.ids().size())};
  std::fill(sample.is_target.begin() + static_cast<std::ptrdiff_t>(first), sample.is_target.end(), std::uint8_t{1});
  sample.ids = places.take_ids();
  detail::add_begin_and_end(tokenizer, sample);
  return sample;
}

/// A text of which every token behind the first is a target; its two ends are as those of `completion_sample`.
inline InstructionSample text_sample(const Tokenizer& tokenizer, std::string_view text) {
  return completion_sample(tokenizer, {}, text);
}

}}}  // namespace remat::text
