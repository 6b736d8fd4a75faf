// Conversations are written as transformers' apply_chat_template writes them.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <remat/text/chat.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>
#include <vector>

using namespace remat;
using namespace remat_test;

namespace {

TEST(Chat, IsWrittenAsTheModelsTemplateWritesIt) {
  const auto golden = nlohmann::json::parse(text::detail::read_text_file(golden_folder + "chat.json"));
  const auto tokenizer = golden_tokenizer("smollm");
  ASSERT_EQ(golden.size(), 30U);
  for (const auto& wanted : golden) {
    const text::ChatFormat format = text::recognize_chat(wanted["template"].get<std::string>());
    std::vector<text::ChatMessage> messages;
    for (const auto& message : wanted["messages"])
      messages.push_back({message[0].get<std::string>(), message[1].get<std::string>()});
    const bool prompt = wanted["prompt"].get<bool>();
    EXPECT_EQ(text::render_chat(format, messages, prompt), wanted["text"].get<std::string>()) << wanted["name"];
    if (!wanted["ids"].is_null()) {
      EXPECT_EQ(text::encode_chat(tokenizer, format, messages, prompt),
                wanted["ids"].get<std::vector<text::TokenId>>());
    }
  }
}

TEST(Chat, DefaultSystemMessageIsReadFromTheTemplate) {
  EXPECT_EQ(text::recognize_chat("'<|im_start|>system\nBe kind.<|im_end|>\n'").default_system, "Be kind.");
  EXPECT_EQ(text::recognize_chat("'<|im_start|>system\\nBe kind.<|im_end|>'").default_system, "Be kind.");
  EXPECT_EQ(text::recognize_chat("'<|im_start|>system\n' + message + '<|im_end|>'").default_system, "");
}

TEST(Chat, WithoutAFormatIsPlain) {
  EXPECT_EQ(text::render_chat({}, {{"system", "a"}, {"user", "b"}, {"assistant", "c"}}, true),
            "System: a\nUser: b\nAssistant: c\nAssistant:");
}

TEST(Chat, RefusesWhatItDoesNotKnow) {
  expect_error({"has no markers that are known", "known are ChatML"}, [] { text::recognize_chat("[INST] {{ x }}"); });
  expect_error({"writes reasoning"}, [] { text::recognize_chat("<|im_start|> <think>"); });
  expect_error({"writes dates"}, [] { text::recognize_chat("<|start_header_id|> Cutting Knowledge Date"); });
  expect_error({"several formats"}, [] { text::recognize_chat("<|im_start|> <start_of_turn>"); });
  expect_error({"the role \"tool\" is not one of"}, [] { text::render_chat({}, {{"tool", ""}}); });
  expect_error({"at least one message"}, [] { text::render_chat({}, {}); });
  expect_error({"turn 0", "alternate"}, [] { text::render_chat({text::ChatStyle::gemma, {}}, {{"assistant", ""}}); });
  expect_error({"has no token <start_of_turn>"}, [] {
    text::encode_chat(golden_tokenizer("smollm"), {text::ChatStyle::gemma, {}}, {{"user", ""}});
  });
}

}  // namespace
