// Conversations as the text that a model was trained on.
#pragma once

#include <cstddef>
#include <remat/core/error.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// One turn of a conversation.
struct ChatMessage {
  std::string role{};     // "system", "user" or "assistant"
  std::string content{};  // what is said
};

/// How a model wants conversations written. Special tokens stand in the text: encode it without adding others.
struct ChatFormat {
  /// ChatML (SmolLM2, Qwen), Llama 3's headers, or Gemma's turns, which know no system.
  enum class Kind { chat_ml, llama3, gemma };
  Kind kind = Kind::chat_ml;     // how turns are marked
  std::string default_system{};  // the system's turn where a conversation begins with none; empty: none

  /// The conversation as text; where `asks` is true, up to where the assistant's next answer begins. An `Error` for a
  /// role that is none.
  std::string operator()(std::span<const ChatMessage> messages, bool asks = true) const {
    std::string text = kind == Kind::llama3 ? "<|begin_of_text|>" : kind == Kind::gemma ? "<bos>" : "";
    const bool has_system = !messages.empty() && messages.front().role == "system";
    if (!has_system && !default_system.empty()) text += turn("system", default_system);
    for (const ChatMessage& message : messages) {
      require(message.role == "system" || message.role == "user" || message.role == "assistant", "chat: the role \"",
              message.role, "\" is none of system, user, assistant");
      require(message.role != "system" || kind != Kind::gemma,
              "chat: this model's format knows no system; put what it ", "should be told into the first message");
      text += turn(message.role, message.content);
    }
    return asks ? text + opening("assistant") : text;
  }

 private:
  std::string opening(std::string_view role) const {
    const std::string name(kind == Kind::gemma && role == "assistant" ? "model" : role);
    if (kind == Kind::chat_ml) return "<|im_start|>" + name + "\n";
    if (kind == Kind::llama3) return "<|start_header_id|>" + name + "<|end_header_id|>\n\n";
    return "<start_of_turn>" + name + "\n";
  }
  std::string turn(std::string_view role, std::string_view content) const {
    if (kind != Kind::chat_ml) content = trimmed(content);  // as their templates do
    const char* const end = kind == Kind::chat_ml  ? "<|im_end|>\n"
                            : kind == Kind::llama3 ? "<|eot_id|>"
                                                   : "<end_of_turn>\n";
    return opening(role) + std::string(content) + end;
  }
  static std::string_view trimmed(std::string_view text) {
    constexpr std::string_view blank = " \t\n\r\f\v";
    const std::size_t begin = text.find_first_not_of(blank);
    return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(blank) + 1 - begin);
  }
};

/// The format that a model's template (Jinja, `tokenizer.chat_template`) writes, told by the marks in it; ChatML's
/// default system message too. An `Error` that begins with `where` lists the formats that are known.
inline ChatFormat chat_format_of(std::string_view chat_template, const std::string& where = "chat") {
  const auto has = [&](std::string_view mark) { return chat_template.find(mark) != std::string_view::npos; };
  if (has("<|start_header_id|>") && has("<|eot_id|>") && !has("Knowledge Date")) return {ChatFormat::Kind::llama3, {}};
  if (has("<start_of_turn>") && has("<end_of_turn>")) return {ChatFormat::Kind::gemma, {}};
  require(has("<|im_start|>") && has("<|im_end|>"), where, ": its chat template is none of ChatML, Llama 3 and Gemma",
          chat_template.empty() ? ", for it has none" : "");
  ChatFormat format;
  constexpr std::string_view begin_mark = "<|im_start|>system\\n", end_mark = "<|im_end|>";
  const std::size_t found = chat_template.find(begin_mark), begin = found + begin_mark.size();
  if (found == std::string_view::npos) return format;
  const std::string_view literal = chat_template.substr(begin, chat_template.find(end_mark, begin) - begin);
  if (literal.find_first_of("'\"{}") == std::string_view::npos) format.default_system = literal;
  return format;
}

}}}  // namespace remat::text
