// Conversations as models were trained to read them.
#pragma once

#include <cstddef>
#include <remat/core/error.hpp>
#include <remat/text/tokenizer.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// One turn.
struct ChatMessage {
  std::string role{};     // "system", "user" or "assistant"
  std::string content{};  // what is said
};

/// How turns are written.
enum class ChatStyle {
  chatml,  // turns between im_start and im_end, as SmolLM2 and Qwen2 have them
  llama3,  // a header with the role, two ends of line, then eot_id; what is said is trimmed
  gemma,   // turns between start_of_turn and end_of_turn, trimmed; the assistant is "model"
  plain    // Role: what is said; for models that learned no format
};

/// A style, and what a model adds to it.
struct ChatFormat {
  ChatStyle style = ChatStyle::plain;  // how turns are written
  std::string default_system{};        // ChatML: the first turn where a conversation has no system message; empty: none
};

/// SmolLM2's ChatML.
inline ChatFormat smollm2_chat() {
  return {ChatStyle::chatml, "You are a helpful AI assistant named SmolLM, trained by Hugging Face"};
}

/// The format of a model's own template (Jinja, `chat_template` in its files), known by its markers. A template that
/// writes other things too, reasoning or dates, or that is not known, is an `Error` that lists those known.
inline ChatFormat recognize_chat(std::string_view jinja) {
  const auto has = [&](std::string_view marker) { return jinja.find(marker) != std::string_view::npos; };
  const auto refuse = [](const char* why) {
    fail("chat template: ", why,
         "; known are ChatML (<|im_start|>), Llama 3 (<|start_header_id|>) and Gemma (<start_of_turn>) without more: "
         "write "
         "the conversation's text yourself, or choose a ChatFormat");
  };
  if (has("reasoning_content") || has("<think>")) refuse("writes reasoning, which is not supported");
  if (has("Cutting Knowledge Date") || has("strftime")) refuse("writes dates, which is not supported");
  const int styles = int{has("<|im_start|>")} + int{has("<|start_header_id|>")} + int{has("<start_of_turn>")};
  if (styles != 1) refuse(styles == 0 ? "has no markers that are known" : "has the markers of several formats");
  if (has("<|start_header_id|>")) return {ChatStyle::llama3, {}};
  if (has("<start_of_turn>")) return {ChatStyle::gemma, {}};
  // The default system message stands in the template as it is, behind a line's end that may be written \n.
  ChatFormat format{ChatStyle::chatml, {}};
  static constexpr std::string_view begin = "<|im_start|>system", end = "<|im_end|>";
  for (std::size_t at = 0; (at = jinja.find(begin, at)) != std::string_view::npos;) {
    at += begin.size();
    std::string_view rest = jinja.substr(at);
    if (rest.substr(0, 2) == "\\n")
      rest.remove_prefix(2);
    else if (rest.substr(0, 1) == "\n")
      rest.remove_prefix(1);
    else
      continue;
    const std::string_view message = rest.substr(0, rest.find(end));
    if (message.size() == rest.size() || message.find_first_of("'\"{}\\") != std::string_view::npos) continue;
    format.default_system = message;
    break;
  }
  return format;
}

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

inline std::string gemma_chat(const std::vector<ChatMessage>& messages) {
  std::string text = "<bos>", prefix;
  std::size_t turn = 0;
  for (const ChatMessage& message : messages) {
    if (&message == &messages.front() && message.role == "system") {  // has no turn of its own
      prefix = message.content + "\n\n";
      continue;
    }
    require((message.role == "user") == (turn % 2 == 0), "chat: turn ", turn, " is of the role \"", message.role,
            "\"; Gemma's turns alternate between user and assistant");
    text += "<start_of_turn>" + std::string(message.role == "assistant" ? "model" : message.role) + '\n';
    if (turn++ == 0) text += prefix;
    text += std::string(trimmed(message.content)) + "<end_of_turn>\n";
  }
  return text;
}

}  // namespace detail

/// The text of a conversation. `add_generation_prompt` ends it where the assistant's next words begin.
inline std::string render_chat(const ChatFormat& format, const std::vector<ChatMessage>& messages,
                               bool add_generation_prompt = false) {
  for (const ChatMessage& message : messages)
    require(message.role == "system" || message.role == "user" || message.role == "assistant", "chat: the role \"",
            message.role, "\" is not one of system, user, assistant");
  require(!messages.empty(), "chat: a conversation has at least one message");
  std::string text;
  switch (format.style) {
    case ChatStyle::chatml:
      if (!format.default_system.empty() && messages.front().role != "system")
        text += "<|im_start|>system\n" + format.default_system + "<|im_end|>\n";
      for (const auto& [role, content] : messages) text += "<|im_start|>" + role + '\n' + content + "<|im_end|>\n";
      if (add_generation_prompt) text += "<|im_start|>assistant\n";
      break;
    case ChatStyle::llama3:
      text = "<|begin_of_text|>";
      for (const auto& [role, content] : messages)
        text += "<|start_header_id|>" + role + "<|end_header_id|>\n\n" + std::string(detail::trimmed(content)) +
                "<|eot_id|>";
      if (add_generation_prompt) text += "<|start_header_id|>assistant<|end_header_id|>\n\n";
      break;
    case ChatStyle::gemma:
      text = detail::gemma_chat(messages);
      if (add_generation_prompt) text += "<start_of_turn>model\n";
      break;
    case ChatStyle::plain:
      for (const auto& [role, content] : messages)
        text += (role == "system" ? "System: " : role == "user" ? "User: " : "Assistant: ") + content + '\n';
      if (add_generation_prompt) text += "Assistant:";
      break;
  }
  return text;
}

/// The tokens of a conversation. Its markers must be tokens of the tokenizer; in what is said they are tokens, too, as
/// in every library that renders the text first: clean what strangers say.
inline std::vector<TokenId> encode_chat(const Tokenizer& tokenizer, const ChatFormat& format,
                                        const std::vector<ChatMessage>& messages, bool add_generation_prompt = false) {
  const char* const markers[] = {"<|im_start|>", "<|start_header_id|>", "<start_of_turn>"};
  if (format.style != ChatStyle::plain) {
    const char* const marker = markers[static_cast<int>(format.style)];
    require(tokenizer.id_of(marker).has_value(), "chat: the tokenizer has no token ", marker,
            "; choose the format that the model was trained with");
  }
  return tokenizer.encode(render_chat(format, messages, add_generation_prompt), {.add_special_tokens = false});
}

}}}  // namespace remat::text
