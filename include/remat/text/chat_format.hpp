// How conversations are written: the formats that models learned.
#pragma once

#include <cstddef>
#include <remat/core/error.hpp>
#include <string>
#include <string_view>

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

}}}  // namespace remat::text
