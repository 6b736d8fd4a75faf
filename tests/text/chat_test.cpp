// Conversations are written as the templates of published models write them.
#include <gtest/gtest.h>

#include <remat/text/chat.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using text::ChatFormat;
using text::ChatMessage;

const std::vector<ChatMessage> question{{"user", "Hi there "}};
const std::vector<ChatMessage> told{{"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello."}, {"user", "Bye"}};

// As in SmolLM2's file: a system message of its own where a conversation begins with none.
constexpr const char* chat_ml =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    "You are helpful<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

TEST(Chat, ChatMl) {
  const ChatFormat format = text::chat_format_of(chat_ml);
  EXPECT_EQ(format.kind, ChatFormat::Kind::chat_ml);
  EXPECT_EQ(format(question),
            "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\nHi there <|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(format(told, false),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello."
            "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n");
  const char* const without = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'}}";
  EXPECT_EQ(text::chat_format_of(without).default_system, "");
  const char* const computed = "{{'<|im_start|>system\\n' + today + '<|im_end|>\\n'}}";  // no literal message
  EXPECT_EQ(text::chat_format_of(computed).default_system, "");
}

TEST(Chat, Llama3AndGemmaTrim) {
  const ChatFormat llama = text::chat_format_of("'<|start_header_id|>' ... '<|eot_id|>'");
  EXPECT_EQ(
      llama(question),
      "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|><|start_header_id|>assistant"
      "<|end_header_id|>\n\n");
  const ChatFormat gemma = text::chat_format_of("'<start_of_turn>' ... '<end_of_turn>\\n'");
  EXPECT_EQ(gemma(question), "<bos><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(gemma(std::vector<ChatMessage>{{"user", "\n"}, {"assistant", "a"}}, false),
            "<bos><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n");
}

TEST(Chat, WhatIsNotKnownIsRefused) {
  expect_error({"model.gguf: its chat template is none of ChatML, Llama 3 and Gemma, for it has none"},
               [] { text::chat_format_of("", "model.gguf"); });
  expect_error({"none of ChatML, Llama 3 and Gemma"}, [] { text::chat_format_of("[INST] {{ content }} [/INST]"); });
  // Llama 3.1's template writes dates, which would be missing.
  expect_error({"none of"}, [] {
    text::chat_format_of("<|start_header_id|>system<|end_header_id|>Cutting Knowledge Date: December 2023<|eot_id|>");
  });
  expect_error({"the role \"User\" is none of system, user, assistant"}, [] {
    ChatFormat{}(std::vector<ChatMessage>{{"User", "x"}});
  });
  expect_error({"knows no system"}, [] { text::chat_format_of("<start_of_turn><end_of_turn>")(told); });
}

}  // namespace
