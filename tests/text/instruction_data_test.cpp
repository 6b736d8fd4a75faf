// Files of instructions: the three forms of a line, what is wrong with others, and what becomes of all.
#include <gtest/gtest.h>
#include <unistd.h>

#include <core/expect_error.hpp>
#include <filesystem>
#include <fstream>
#include <remat/text/instruction_data.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>
#include <vector>

using namespace remat;
using namespace remat_test;

namespace {

class InstructionFile : public testing::Test {
 protected:
  InstructionFile() : path(testing::TempDir() + "instructions_" + std::to_string(::getpid()) + ".jsonl") {}
  ~InstructionFile() override { std::filesystem::remove(path); }

  text::InstructionData read(const std::string& lines, const text::InstructionOptions& options) const {
    std::ofstream(path, std::ios::binary) << lines;
    return text::read_instructions(path, tokenizer, options);
  }

  static std::vector<text::TokenId> ids(const data::TokenSample& sample) {
    return {sample.tokens.begin(), sample.tokens.end()};
  }

  std::string path;
  text::Tokenizer tokenizer = golden_tokenizer("smollm");
  text::InstructionOptions chatml{.chat = text::smollm2_chat()};
};

const std::string talk =
    R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes\n"}]})";

// Protects the forms, blank lines, line ends of DOS, a last line without an end, and fields that say nothing here.
TEST_F(InstructionFile, HasThreeForms) {
  const auto data = read(talk + "\r\n\n  \t\r\n" + R"({"prompt": "Hi", "completion": "Yes\n", "source": [1, {}]})" +
                             "\n" + R"({"text": "One two", "messages": null})",
                         chatml);
  const data::TokenSamples samples = data.samples();
  ASSERT_EQ(samples.size(), 3);
  samples.check("samples");
  const auto wanted = text::chat_sample(tokenizer, *chatml.chat, {{"user", "Hi"}, {"assistant", "Yes\n"}});
  for (const Index i : {0, 1}) {
    EXPECT_EQ(ids(samples[i]), wanted.ids);
    EXPECT_EQ(samples[i].target_count(), wanted.view().target_count());
  }
  EXPECT_EQ(ids(samples[2]), text::text_sample(tokenizer, "One two").ids);
  EXPECT_EQ(data.counts().samples, 3);
  EXPECT_EQ(data.counts().tokens, std::ssize(samples.tokens));
  EXPECT_EQ(data.counts().targets, samples[0].target_count() * 2 + samples[2].target_count());
  EXPECT_EQ(data.counts().cut + data.counts().skipped + data.counts().bad, 0);

  const auto plain = read(R"({"prompt": "Hi", "completion": " Yes"})", {});
  EXPECT_EQ(ids(plain.samples()[0]), text::completion_sample(tokenizer, "Hi", " Yes").ids);
}

// Protects lines longer than what is read at once, and those at its edge.
TEST_F(InstructionFile, MayHaveLongLines) {
  const std::string line = R"({"text": "One", "pad": ")";
  for (const std::size_t length : {std::size_t{1} << 20, (std::size_t{1} << 20) - 1, std::size_t{5} << 19}) {
    const std::string longer = line + std::string(length - line.size() - 2, 'x') + "\"}";
    EXPECT_EQ(read(longer + "\n" + longer + "\n" + talk + "\n", chatml).counts().samples, 3);
  }
}

// Protects whoever made the file: each fault is told with its line and with what is wrong; with `skip_bad_lines` it is
// counted, and the others are read.
TEST_F(InstructionFile, SaysWhatIsWrongInWhichLine) {
  const auto messages = [](const std::string& all) { return R"({"messages": )" + all + "}"; };
  const std::string user = R"({"role": "user", "content": "x"})";
  const std::pair<std::string, std::string> faults[] = {
      {R"({"text": "x")", "is not valid JSON"},
      {"hello", "parse error at column 1"},
      {R"({"text": "x"} {})", "is not valid JSON"},
      {R"([{"text": "x"}])", "is array, where an object is expected"},
      {"3", "is number, where an object is expected"},
      {"{}", "has none of \"messages\""},
      {R"({"instruction": "x", "output": "y"})", "has none of \"messages\""},
      {R"({"text": 3})", "text is number, where a string is expected"},
      {R"({"text": ""})", "has no token to learn"},
      {R"({"text": "a", "text": "b"})", "has the name \"text\" twice"},
      {R"({"text": "\ud800"})", "is not valid JSON"},
      {std::string("{\"text\": \"\xFF\"}"), "is not valid UTF-8 at byte 10"},
      {std::string("{\"text\": \"a\0b\"}", 15), "NUL"},
      {R"({"prompt": "x"})", "lacks the field \"completion\""},
      {R"({"completion": "x"})", "lacks the field \"prompt\""},
      {R"({"prompt": "x", "completion": ["y"]})", "completion is array"},
      {messages("[]"), "messages is empty"},
      {messages("{}"), "messages is object, where an array is expected"},
      {messages("[3]"), "messages[0] is number, where an object is expected"},
      {messages("[" + user + "]"), "no turn of the assistant"},
      {messages("[" + user + R"(, {"role": "bot", "content": "x"}])"), "messages[1]/role is \"bot\""},
      {messages("[" + user + R"(, {"role": "assistant"}])"), "messages[1] lacks the field \"content\""},
      {messages(R"([{"content": "x"}])"), "messages[0] lacks the field \"role\""},
      {messages(R"([{"role": "assistant", "content": [{"type": "text"}]}])"), "messages[0]/content is array"},
      {messages(R"([{"role": "assistant", "content": "x", "weight": 0}])"), "has the field \"weight\""},
      {R"({"tools": [], "messages": [{"role": "assistant", "content": "x"}]})", "has tools"},
      {std::string(100, '[') + std::string(100, ']'), "64 arrays"},
  };
  std::string all;
  for (const auto& [line, what] : faults) {
    expect_error({path, "line 3: ", what}, [&, &bad = line] { read(talk + "\n\n" + bad + "\n" + talk, chatml); });
    all += line + "\n";
  }
  text::InstructionOptions skipping = chatml;
  skipping.skip_bad_lines = true;
  const auto data = read(all + talk + "\n" + all, skipping);
  EXPECT_EQ(data.counts().bad, 2 * std::ssize(faults));
  EXPECT_EQ(data.samples().size(), 1);
  expect_error({path, "no line to learn from", "are malformed", "line 1: is not valid JSON"},
               [&] { read(all, skipping); });
}

// Protects against settings that make every line useless: told once, whatever is skipped.
TEST_F(InstructionFile, RefusesWhatItCannotUse) {
  text::InstructionOptions options{.skip_bad_lines = true};
  expect_error({path, "line 1", "no chat format"}, [&] { read(talk, {}); });
  expect_error({"context of 0"}, [&] { read(talk, {.context = 0}); });
  expect_error({path, "has no line to learn from"}, [&] { read(" \n\n", options); });
  expect_error({path, "has no line to learn from"}, [&] { read("", options); });
  options.chat = {text::ChatStyle::gemma, {}};
  expect_error({"has no token <start_of_turn>"}, [&] { read(talk, options); });
  expect_error({"/no/such", "No such file"}, [&] { text::read_instructions("/no/such", tokenizer); });
  expect_error({testing::TempDir()}, [&] { text::read_instructions(testing::TempDir(), tokenizer); });
}

// Protects training from samples without a target: a prompt that fills the context is left out and counted, an answer
// that goes beyond is cut and counted; a token more than the context is kept, since the last is only predicted.
TEST_F(InstructionFile, FitsTheContext) {
  const auto whole = read(talk, chatml);
  const auto size = static_cast<std::size_t>(whole.samples()[0].tokens.size());
  const auto positions = static_cast<std::size_t>(whole.samples()[0].positions());
  ASSERT_EQ(positions, size - 2);  // the end of the turn is predicted, the line end behind it is not
  const auto with = [&](std::size_t context, const std::string& lines) {
    text::InstructionOptions options = chatml;
    options.context = context;
    return read(lines, options);
  };
  EXPECT_EQ(with(size - 1, talk).counts().cut, 0);
  EXPECT_EQ(with(size - 2, talk).counts().cut, 1);
  EXPECT_EQ(with(size - 2, talk).counts().targets, whole.counts().targets);
  EXPECT_EQ(with(size - 3, talk).counts().targets, whole.counts().targets - 1);
  const std::size_t prompt = positions + 1 - static_cast<std::size_t>(whole.counts().targets);
  const std::string short_text = R"({"text": "One two three"})";
  const auto some = with(prompt - 1, talk + "\n" + short_text + "\n" + talk);
  EXPECT_EQ(some.counts().skipped, 2);
  EXPECT_EQ(some.counts().samples, 1);
  EXPECT_EQ(with(prompt, talk).counts().targets, 1);
  expect_error({path, "no line to learn from", "of 1 the prompt alone fills the context", "longer context"},
               [&] { with(prompt - 1, talk); });
}

}  // namespace
