// Instruction data: JSON Lines of conversations, of prompts with completions, or of texts, as samples to learn from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <remat/core/error.hpp>
#include <remat/core/token_samples.hpp>
#include <remat/text/chat_format.hpp>
#include <remat/text/instruction_sample.hpp>
#include <remat/text/json_lines.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/tokenizer.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// How lines become samples.
struct InstructionOptions {
  /// How conversations are written. With one, {"prompt", "completion"} is a conversation of a user and the assistant;
  /// without, the two are one text, and {"messages"} is an error.
  std::optional<ChatFormat> chat{};
  std::size_t context = 1024;   // positions that a model sees: no sample needs more, see `InstructionSample::truncate`
  bool skip_bad_lines = false;  // count malformed lines instead of stopping at the first
};

/// Samples of a whole file, side by side.
class InstructionData {
 public:
  /// The samples, as spans: good as long as this object is where it is and no sample is added.
  data::TokenSamples samples() const& { return {tokens_, is_target_, offsets_}; }
  void samples() && = delete;
  /// What became of the lines.
  const data::TokenSampleCounts& counts() const { return counts_; }

  /// Adds a sample, cut to the context; one that keeps no target is counted and left out.
  void add(InstructionSample sample, std::size_t context) {
    const std::size_t whole = sample.ids.size();
    if (!sample.truncate(context)) {
      ++counts_.skipped;
      return;
    }
    tokens_.insert(tokens_.end(), sample.ids.begin(), sample.ids.end());
    is_target_.insert(is_target_.end(), sample.is_target.begin(), sample.is_target.end());
    offsets_.push_back(static_cast<std::int64_t>(tokens_.size()));
    ++counts_.samples;
    counts_.tokens += static_cast<std::int64_t>(sample.ids.size());
    counts_.targets += static_cast<std::int64_t>(sample.target_count());
    counts_.cut += sample.ids.size() < whole;
  }
  /// Counts a line that is malformed.
  void add_bad() { ++counts_.bad; }

 private:
  std::vector<TokenId> tokens_{};
  std::vector<std::uint8_t> is_target_{};
  std::vector<std::int64_t> offsets_{0};
  data::TokenSampleCounts counts_{};
};

namespace detail {

inline std::vector<ChatMessage> read_messages(const JsonPlace& messages) {
  std::vector<ChatMessage> read;
  messages.each([&](const JsonPlace& message) {
    message.allow_only({"role", "content"});  // a weight or a tool call would be passed over in silence
    const std::string& role = message["role"].text();
    if (role != "system" && role != "user" && role != "assistant")
      message["role"].refuse("is \"", std::string_view(role).substr(0, 60), "\", not system, user or assistant");
    read.push_back({role, message["content"].text()});
  });
  if (read.empty()) messages.refuse("is empty");
  return read;
}

inline InstructionSample read_instruction(std::string_view line, const Tokenizer& tokenizer,
                                          const InstructionOptions& options) {
  const Json json = parse_json_line(line);
  const JsonPlace place(json, "");
  require(place.is_object(), "is ", json.type_name(), ", where an object is expected");
  if (place.has("messages")) {
    require(options.chat.has_value(), "has messages, but no chat format was given to write them in");
    require(!place.has("tools"), "has tools, which are not supported");
    return chat_sample(tokenizer, *options.chat, read_messages(place["messages"]));
  }
  if (place.has("prompt") || place.has("completion")) {
    const std::string &prompt = place["prompt"].text(), &completion = place["completion"].text();
    if (!options.chat) return completion_sample(tokenizer, prompt, completion);
    return chat_sample(tokenizer, *options.chat, {{"user", prompt}, {"assistant", completion}});
  }
  require(place.has("text"), "has none of \"messages\", \"prompt\" with \"completion\", \"text\"");
  return text_sample(tokenizer, place["text"].text());
}

}  // namespace detail

/// Reads a file of JSON Lines from anyone. A line is an object with the first of these that it has; other fields say
/// nothing:
///
///     {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
///     {"prompt": "...", "completion": "..."}
///     {"text": "..."}
///
/// They become what `chat_sample`, `completion_sample` and `text_sample` make, cut at their end to the context. Blank
/// lines are passed over. What is malformed is an `Error` that names the file, the line and what is wrong, or with
/// `skip_bad_lines` is counted; a file without any sample is an `Error` always.
inline InstructionData read_instructions(const std::string& path, const Tokenizer& tokenizer,
                                         const InstructionOptions& options = {}) {
  require(options.context > 0, path, ": a context of 0 positions holds no sample");
  if (options.chat) detail::require_markers(tokenizer, *options.chat);
  InstructionData data;
  std::string first_error;
  detail::each_json_line(path, [&](std::string_view line, std::size_t number) {
    try {
      data.add(detail::read_instruction(line, tokenizer, options), options.context);
    } catch (const Error& error) {
      const std::string_view what = std::string_view(error.what()).substr(0, 600);  // values may be very long
      std::string message = path + ": line " + std::to_string(number) + ": " + std::string(what);
      if (!options.skip_bad_lines) throw Error(message);
      if (first_error.empty()) first_error = std::move(message);
      data.add_bad();
    }
  });
  const data::TokenSampleCounts& counts = data.counts();
  if (counts.samples == 0)
    fail(path, ": has no line to learn from: ", counts.bad, " are malformed, of ", counts.skipped,
         " the prompt alone fills the context of ", options.context,
         counts.skipped > 0 ? "; use a longer context" : "; give a file of JSON Lines",
         first_error.empty() ? "" : ". The first: ", first_error);
  return data;
}

}}}  // namespace remat::text
