// What a tokenizer says of itself, what it refuses, and joining of pairs by the plainest rule.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <cstdio>
#include <fstream>
#include <remat/text/tokenizer_json.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>
#include <thread>
#include <vector>

using namespace remat;
using namespace remat_test;

namespace {

TEST(Tokenizer, TellsOfItsTokens) {
  const auto tokenizer = golden_tokenizer("gpt2");
  EXPECT_EQ(tokenizer.vocabulary_size(), 900);
  EXPECT_EQ(tokenizer.id_of("<|endoftext|>"), 0);
  EXPECT_EQ(tokenizer.id_of("no such token"), std::nullopt);
  const auto the = tokenizer.encode(" the");
  ASSERT_EQ(the.size(), 1U);
  EXPECT_EQ(tokenizer.token_of(the[0]), "\xC4\xA0the");  // as the file has it
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(the[0]));
  EXPECT_EQ(tokenizer.added_tokens().size(), 1U);
  EXPECT_EQ(tokenizer.max_length(), std::nullopt);
}

TEST(Tokenizer, KnowsTokensWithARole) {
  const auto bert = golden_tokenizer("bert_uncased");
  EXPECT_EQ(bert.special_ids().pad, bert.id_of("[PAD]"));
  EXPECT_EQ(bert.special_ids().unk, bert.id_of("[UNK]"));
  EXPECT_EQ(bert.special_ids().mask, bert.id_of("[MASK]"));
  EXPECT_EQ(bert.special_ids().bos, std::nullopt);
  EXPECT_EQ(golden_tokenizer("llama2").special_ids().eos, 2);
}

TEST(Tokenizer, ReadsRolesAndLengthBesideTheFile) {
  const std::string folder = testing::TempDir();
  auto json = nlohmann::json::parse(text::detail::read_text_file(golden_folder + "smollm.json"));
  json["truncation"] = {{"max_length", 128}, {"strategy", "LongestFirst"}, {"stride", 0}, {"direction", "Right"}};
  json["padding"] = {{"pad_id", 0}};
  std::ofstream(folder + "/tokenizer.json") << json.dump();
  std::ofstream(folder + "/tokenizer_config.json")
      << R"({"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "pad_token": null, "mask_token": "?!"})";
  const auto tokenizer = text::load_tokenizer(folder);
  EXPECT_EQ(tokenizer.special_ids().bos, tokenizer.id_of("<|im_start|>"));
  EXPECT_EQ(tokenizer.special_ids().eos, tokenizer.id_of("<|im_end|>"));
  EXPECT_EQ(tokenizer.special_ids().pad, std::nullopt);
  EXPECT_EQ(tokenizer.special_ids().mask, std::nullopt);
  EXPECT_EQ(tokenizer.max_length(), 128U);
  EXPECT_GT(tokenizer.encode(golden_text()).size(), 128U);  // texts are not cut
  std::ofstream(folder + "/tokenizer_config.json") << R"({"bos_token": 7})";
  expect_error({"tokenizer_config.json: bos_token is number, where a string is expected"},
               [&] { text::load_tokenizer(folder); });
  std::remove((folder + "/tokenizer.json").c_str());
  std::remove((folder + "/tokenizer_config.json").c_str());
}

TEST(Tokenizer, RefusesBytesThatAreNoTextAndIdsThatAreNoTokens) {
  const auto tokenizer = golden_tokenizer("gpt2");
  expect_error({"not valid UTF-8 at byte 2 of 4"}, [&] { tokenizer.encode("ab\xFF\x63"); });
  expect_error({"id 900 is no token", "all below 900"}, [&] { tokenizer.decode(std::vector<text::TokenId>{900}); });
  expect_error({"id -1 is no token"}, [&] { tokenizer.token_of(-1); });
  nlohmann::json file = nlohmann::json::parse(text::detail::read_text_file(golden_folder + "unigram.json"));
  file["model"]["unk_id"] = nullptr;
  const text::Tokenizer strict(text::detail::read_tokenizer_json(file.dump()));
  expect_error({"\"\xE2\x99\x9E\" has no token"}, [&] { strict.encode("\xE2\x99\x9E"); });
  EXPECT_EQ(strict.encode("the").empty(), false);
}

TEST(Tokenizer, GivesBackEveryByte) {
  for (const char* const name : {"gpt2", "smollm", "llama3", "falcon"}) {
    const auto tokenizer = golden_tokenizer(name);
    for (const std::string& text : random_strings()[3])
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, {.add_special_tokens = false})), text) << name;
  }
}

TEST(Tokenizer, MayBeUsedByManyThreads) {
  const auto tokenizer = golden_tokenizer("llama3");
  const auto expected = tokenizer.encode(golden_text());
  std::vector<std::vector<text::TokenId>> got(4);
  std::vector<std::thread> threads;
  for (auto& ids : got) threads.emplace_back([&] { ids = tokenizer.encode(golden_text()); });
  for (auto& thread : threads) thread.join();
  for (const auto& ids : got) EXPECT_EQ(ids, expected);
}

// The rule itself: of all neighbors the pair of the lowest rank, of several the leftmost, until there is none.
std::vector<text::TokenId> joined_plainly(std::vector<text::TokenId> ids,
                                          const std::vector<text::detail::Merge>& merges) {
  while (true) {
    const text::detail::Merge* best = nullptr;
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i)
      for (const auto& merge : merges)
        if (merge.left == ids[i] && merge.right == ids[i + 1] && (!best || merge.rank < best->rank))
          best = &merge, place = i;
    if (!best) return ids;
    ids[place] = best->joined;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

TEST(Bpe, JoinsShortAndLongWordsByTheSameRule) {
  text::detail::TokenTable table;
  for (const char* const token : {"a", "b", "c"}) table.add(token, table.size());
  std::vector<text::detail::Merge> merges;
  SplitMix random{5};
  while (merges.size() < 40) {  // ranks in random order, as no training gives them, and some equal
    const auto left = static_cast<text::TokenId>(random.below(static_cast<std::size_t>(table.size())));
    const auto right = static_cast<text::TokenId>(random.below(static_cast<std::size_t>(table.size())));
    const std::string token = *table.text_of(left) + *table.text_of(right);
    if (token.size() > 9 || table.find(token)) continue;
    table.add(token, table.size());
    merges.push_back({left, right, static_cast<std::int32_t>(random.below(30)), table.size() - 1});
  }
  const text::detail::Bpe bpe(table, merges, {});
  for (std::size_t length = 0; length < 130; ++length) {
    std::string word;
    std::vector<text::TokenId> ids, got;
    for (std::size_t i = 0; i < length; ++i) {
      ids.push_back(static_cast<text::TokenId>(random.below(3)));
      word += *table.text_of(ids.back());
    }
    bpe(word, got);
    EXPECT_EQ(got, joined_plainly(ids, merges)) << word;
  }
}

TEST(Bpe, KnowsWordsAgainWhenItsMemoryIsFull) {
  const auto tokenizer = golden_tokenizer("gpt2");
  std::string text;
  for (int i = 0; i < 80000; ++i) text += " w" + std::string(1, static_cast<char>('a' + i % 26)) + std::to_string(i);
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(tokenizer.encode(text), ids);
}

}  // namespace
