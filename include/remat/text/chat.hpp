// Conversations as models were trained to read them.
#pragma once

#include <cstddef>
#include <remat/core/error.hpp>
#include <remat/text/chat_format.hpp>
#include <remat/text/tokenizer.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// What a conversation is written as.
struct RenderedChat {
  std::string text{};  // the whole
  /// Where the assistant's answers are: bytes [first, second) of what is said in a turn and of the marker that ends it
  /// (in `ChatStyle::plain`, from the space before to the line's end). They begin where generation prompts end.
  std::vector<std::pair<std::size_t, std::size_t>> answers{};
};

namespace detail {

// As Jinja's `trim`, which is Python's str.strip.
inline std::string_view trimmed(std::string_view text) {
  const auto is_space = [](char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); };
  std::size_t begin = 0, end = 0;
  for (std::size_t at = 0; at < text.size() && is_space(utf8::next(text, at));) begin = at;
  end = begin;
  for (std::size_t at = begin; at < text.size();)
    if (!is_space(utf8::next(text, at))) end = at;
  return text.substr(begin, end - begin);
}

// One turn, without what stands between turns.
inline void add_turn(RenderedChat& chat, const ChatMessage& message, const std::string& header,
                     std::string_view content, std::string_view end) {
  chat.text += header;
  const std::size_t begin = chat.text.size();
  chat.text.append(content).append(end);
  if (message.role == "assistant") chat.answers.emplace_back(begin, chat.text.size());
}

// The marker that ends a turn; plain ones end with the line.
inline std::string_view end_of_turn(const ChatFormat& format) {
  static constexpr std::string_view markers[] = {"<|im_end|>", "<|eot_id|>", "<end_of_turn>", ""};
  return markers[static_cast<int>(format.style)];
}

inline void add_gemma_turns(RenderedChat& chat, const std::vector<ChatMessage>& messages) {
  chat.text = "<bos>";
  std::string prefix;
  std::size_t turn = 0;
  for (const ChatMessage& message : messages) {
    if (&message == &messages.front() && message.role == "system") {  // has no turn of its own
      prefix = message.content + "\n\n";
      continue;
    }
    require((message.role == "user") == (turn % 2 == 0), "chat: turn ", turn, " is of the role \"", message.role,
            "\"; Gemma's turns alternate between user and assistant");
    const std::string role = message.role == "assistant" ? "model" : message.role;
    add_turn(chat, message, "<start_of_turn>" + role + '\n' + (turn++ == 0 ? prefix : ""), trimmed(message.content),
             "<end_of_turn>");
    chat.text += '\n';
  }
}

}  // namespace detail

/// The text of a conversation, and where the assistant's answers are in it. `add_generation_prompt` ends it where the
/// assistant's next words begin.
inline RenderedChat render_chat_with_answers(const ChatFormat& format, const std::vector<ChatMessage>& messages,
                                             bool add_generation_prompt = false) {
  for (const ChatMessage& message : messages)
    require(message.role == "system" || message.role == "user" || message.role == "assistant", "chat: the role \"",
            message.role, "\" is not one of system, user, assistant");
  require(!messages.empty(), "chat: a conversation has at least one message");
  RenderedChat chat;
  std::string& text = chat.text;
  const std::string_view end = detail::end_of_turn(format);
  switch (format.style) {
    case ChatStyle::chatml:
      if (!format.default_system.empty() && messages.front().role != "system")
        text += "<|im_start|>system\n" + format.default_system + "<|im_end|>\n";
      for (const ChatMessage& message : messages) {
        detail::add_turn(chat, message, "<|im_start|>" + message.role + '\n', message.content, end);
        text += '\n';
      }
      if (add_generation_prompt) text += "<|im_start|>assistant\n";
      break;
    case ChatStyle::llama3:
      text = "<|begin_of_text|>";
      for (const ChatMessage& message : messages)
        detail::add_turn(chat, message, "<|start_header_id|>" + message.role + "<|end_header_id|>\n\n",
                         detail::trimmed(message.content), end);
      if (add_generation_prompt) text += "<|start_header_id|>assistant<|end_header_id|>\n\n";
      break;
    case ChatStyle::gemma:
      detail::add_gemma_turns(chat, messages);
      if (add_generation_prompt) text += "<start_of_turn>model\n";
      break;
    case ChatStyle::plain:
      for (const ChatMessage& message : messages)
        detail::add_turn(chat, message,
                         message.role == "system" ? "System:"
                         : message.role == "user" ? "User:"
                                                  : "Assistant:",
                         ' ' + message.content, "\n");
      if (add_generation_prompt) text += "Assistant:";
      break;
  }
  return chat;
}

/// The text of a conversation. `add_generation_prompt` ends it where the assistant's next words begin.
inline std::string render_chat(const ChatFormat& format, const std::vector<ChatMessage>& messages,
                               bool add_generation_prompt = false) {
  return render_chat_with_answers(format, messages, add_generation_prompt).text;
}

namespace detail {

// A format is of use to a model only as the tokens that it learned.
inline void require_markers(const Tokenizer& tokenizer, const ChatFormat& format) {
  static constexpr const char* begins[] = {"<|im_start|>", "<|start_header_id|>", "<start_of_turn>"};
  if (format.style == ChatStyle::plain) return;
  const char* const begin = begins[static_cast<int>(format.style)];
  require(tokenizer.id_of(begin).has_value(), "chat: the tokenizer has no token ", begin,
          "; choose the format that the model was trained with");
}

}  // namespace detail

/// The tokens of a conversation. Its markers must be tokens of the tokenizer; in what is said they are tokens, too, as
/// in every library that renders the text first: clean what strangers say.
inline std::vector<TokenId> encode_chat(const Tokenizer& tokenizer, const ChatFormat& format,
                                        const std::vector<ChatMessage>& messages, bool add_generation_prompt = false) {
  detail::require_markers(tokenizer, format);
  return tokenizer.encode(render_chat(format, messages, add_generation_prompt), {.add_special_tokens = false});
}

}}}  // namespace remat::text
