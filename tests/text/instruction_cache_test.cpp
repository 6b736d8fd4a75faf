// Instruction data are tokenized once, and again where anything is another that they depend on.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <core/expect_error.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <remat/io/instruction_cache.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>

using namespace remat;
using namespace remat_test;

namespace {

class InstructionCache : public testing::Test {
 protected:
  InstructionCache() : folder(testing::TempDir() + "instruction_cache_" + std::to_string(::getpid())) {
    std::filesystem::create_directory(folder);
    write(R"({"prompt": "Hi there", "completion": "One 12 two"})");
  }
  ~InstructionCache() override { std::filesystem::remove_all(folder); }

  void write(const std::string& lines) const { std::ofstream(data, std::ios::binary) << lines; }
  // Which file it is: another one where it was replaced.
  auto node() const {
    struct stat status {};
    return ::stat(cache.c_str(), &status) == 0 ? status.st_ino : 0;
  }
  io::TokenCache get(const text::Tokenizer& tokenizer, const text::InstructionOptions& options) const {
    return io::cached_instructions(cache, data, tokenizer, options);
  }

  std::string folder, data = folder + "/data.jsonl", cache = folder + "/data.tokens";
  text::InstructionOptions options{.chat = text::smollm2_chat(), .context = 100};
};

TEST_F(InstructionCache, IsMadeAgainWhereAnythingIsAnother) {
  const auto smollm = golden_tokenizer("smollm");
  ino_t last = 0;
  const auto is_made = [&](const text::Tokenizer& tokenizer, const text::InstructionOptions& with) {
    const auto wanted = text::read_instructions(data, tokenizer, with);
    const io::TokenCache made = get(tokenizer, with);
    EXPECT_TRUE(std::equal(wanted.samples().tokens.begin(), wanted.samples().tokens.end(),
                           made.samples().tokens.begin(), made.samples().tokens.end()));
    EXPECT_EQ(made.counts().targets, wanted.counts().targets);
    const ino_t now = node();
    const bool is_new = now != last;
    last = now;
    return is_new;
  };
  EXPECT_TRUE(is_made(smollm, options));
  EXPECT_FALSE(is_made(smollm, options));
  EXPECT_FALSE(is_made(golden_tokenizer("smollm"), options));  // the same, loaded again
  text::InstructionOptions other = options;
  other.context = 99;
  EXPECT_TRUE(is_made(smollm, other));
  other.skip_bad_lines = true;
  EXPECT_TRUE(is_made(smollm, other));
  other.chat->default_system = "Be kind.";
  EXPECT_TRUE(is_made(smollm, other));
  other.chat->style = text::ChatStyle::plain;
  EXPECT_TRUE(is_made(smollm, other));
  other.chat.reset();
  EXPECT_TRUE(is_made(smollm, other));
  EXPECT_TRUE(is_made(golden_tokenizer("gpt2"), other));
  // A tokenizer of the same tokens that joins them in another order.
  auto json = nlohmann::json::parse(text::detail::read_text_file(golden_folder + "smollm.json"));
  auto& merges = json["model"]["merges"];
  std::reverse(merges.begin(), merges.end());
  const text::Tokenizer reversed(text::detail::read_tokenizer_json(json.dump()));
  EXPECT_TRUE(is_made(smollm, other));
  EXPECT_TRUE(is_made(reversed, other));
  write(R"({"prompt": "Hi there", "completion": "One 13 two"})");
  EXPECT_TRUE(is_made(reversed, other));
  EXPECT_FALSE(is_made(reversed, other));
}

// Protects what is there: errors of the data leave the cache alone, a file of somebody else's is not replaced, a
// damaged one is told.
TEST_F(InstructionCache, IsNotMadeOfErrors) {
  const auto smollm = golden_tokenizer("smollm");
  get(smollm, options);
  const auto before = node();
  write("{");
  expect_error({data, "line 1", "not valid JSON"}, [&] { get(smollm, options); });
  EXPECT_EQ(node(), before);
  options.skip_bad_lines = true;
  expect_error({data, "no line to learn from"}, [&] { get(smollm, options); });
  EXPECT_EQ(node(), before);
  std::filesystem::resize_file(cache, 100);
  write(R"({"text": "One"})");
  get(smollm, options);  // of other data: made again
  std::filesystem::resize_file(cache, std::filesystem::file_size(cache) - 1);
  expect_error({cache, "delete it"}, [&] { get(smollm, options); });
  cache = data;
  expect_error({data, "is no cache of tokens"}, [&] { get(smollm, options); });
}

}  // namespace
