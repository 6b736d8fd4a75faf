// Every kind of tokenizer gives the ids, and the texts, of Hugging Face's library.
#include <gtest/gtest.h>

#include <string>
#include <text/golden_tokenizers.hpp>
#include <vector>

using namespace remat;
using namespace remat_test;

namespace {

class Golden : public testing::TestWithParam<const char*> {
 protected:
  text::Tokenizer tokenizer = golden_tokenizer(GetParam());
  const nlohmann::json& expected = golden()["tokenizers"][GetParam()];
};
INSTANTIATE_TEST_SUITE_P(Tokenizers, Golden, testing::ValuesIn(golden_names),
                         [](const auto& name) { return std::string(name.param); });

TEST_P(Golden, SmallCases) {
  for (const auto& wanted : expected["cases"]) {
    const auto text = wanted[0].get<std::string>();
    const auto ids = wanted[1].get<std::vector<text::TokenId>>();
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
    EXPECT_EQ(tokenizer.decode(ids), wanted[2].get<std::string>()) << text;
    EXPECT_EQ(tokenizer.decode(ids, {.skip_special_tokens = true}), wanted[3].get<std::string>()) << text;
  }
  for (const auto& wanted : expected["literal"])
    EXPECT_EQ(
        tokenizer.encode(wanted[0].get<std::string>(), {.add_special_tokens = false, .parse_special_tokens = false}),
        wanted[1].get<std::vector<text::TokenId>>())
        << wanted[0];
}

TEST_P(Golden, LongText) {
  const auto ids = tokenizer.encode(golden_text());
  EXPECT_EQ(ids.size(), expected["text"][0].get<std::size_t>());
  EXPECT_EQ(hash_of(ids), expected["text"][1].get<std::uint64_t>());
  EXPECT_EQ(hash_of(tokenizer.decode(ids)), expected["text"][2].get<std::uint64_t>());
  EXPECT_EQ(hash_of(tokenizer.decode(ids, {.skip_special_tokens = true})), expected["text"][3].get<std::uint64_t>());
  EXPECT_EQ(tokenizer.encode(golden_text()), ids) << "with words that are known from before";
}

TEST_P(Golden, RandomStrings) {
  for (std::size_t block = 0; block < random_strings().size(); ++block) {
    Hash ids, decoded;
    bool is_first = true;
    for (const std::string& text : random_strings()[block]) {
      const auto tokens = tokenizer.encode(text);
      ids.ids(tokens);
      decoded.bytes((is_first ? "" : "\n") + tokenizer.decode(tokens));
      is_first = false;
    }
    EXPECT_EQ(ids.value(), expected["random"][block][0].get<std::uint64_t>()) << "ids of block " << block;
    EXPECT_EQ(decoded.value(), expected["random"][block][1].get<std::uint64_t>()) << "texts of block " << block;
  }
}

TEST(GoldenStrings, AreThoseOfTheScript) {
  for (std::size_t block = 0; block < random_strings().size(); ++block) {
    std::string joined;
    for (const std::string& text : random_strings()[block])
      joined += (&text == &random_strings()[block][0] ? "" : "\n") + text;
    EXPECT_EQ(hash_of(joined), golden()["random_strings"][block].get<std::uint64_t>()) << block;
  }
}

}  // namespace
