// Tokenizers from tables, as GGUF files hold them, and from the files that the first models came with.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <cstdio>
#include <fstream>
#include <remat/text/make_tokenizer.hpp>
#include <remat/text/vocabulary_files.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>
#include <utility>
#include <vector>

using namespace remat;
using namespace remat_test;

namespace {

nlohmann::json json_of(const std::string& name) {
  return nlohmann::json::parse(text::detail::read_text_file(golden_folder + name + ".json"));
}

// The tables of a byte-level tokenizer.json, as a converter to GGUF writes them.
text::TokenizerTables tables_of(const std::string& name, const std::string& pre) {
  const auto json = json_of(name);
  text::TokenizerTables tables;
  tables.name = name;
  tables.model = "gpt2";
  tables.pre = pre;
  tables.tokens.resize(json["model"]["vocab"].size());
  tables.types.assign(tables.tokens.size(), text::TokenType::normal);
  for (const auto& [token, id] : json["model"]["vocab"].items()) tables.tokens[id.get<std::size_t>()] = token;
  for (const auto& added : json["added_tokens"])
    if (added["special"]) tables.types[added["id"].get<std::size_t>()] = text::TokenType::control;
  for (const auto& merge : json["model"]["merges"])
    tables.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  return tables;
}

void expect_same_ids(const text::Tokenizer& made, const text::Tokenizer& expected) {
  const text::EncodeOptions options{.add_special_tokens = false};
  EXPECT_EQ(made.encode(golden_text(), options), expected.encode(golden_text(), options));
  for (std::size_t block = 0; block < 10; ++block)
    for (const std::string& text : random_strings()[block]) {
      const auto ids = made.encode(text, options);
      ASSERT_EQ(ids, expected.encode(text, options)) << text;
      ASSERT_EQ(made.decode(ids), expected.decode(ids)) << text;
    }
}

TEST(Tables, OfByteLevelModelsCutWordsByName) {
  for (const auto& [name, pre] :
       {std::pair("gpt2", "gpt-2"), std::pair("smollm", "smollm"), std::pair("llama3", "llama-bpe")}) {
    SCOPED_TRACE(name);
    expect_same_ids(text::make_tokenizer(tables_of(name, pre)), golden_tokenizer(name));
  }
}

TEST(Tables, OfQwenDoNotSayThatTextsAreComposed) {
  const auto made = text::make_tokenizer(tables_of("qwen2", "qwen2"));
  EXPECT_EQ(made.encode(golden_text()), golden_tokenizer("qwen2").encode(golden_text()));
}

// llama.cpp's words of Falcon are nearly those of its tokenizer.json, which looks for digits among bytes.
TEST(Tables, OfFalconAndDefaultCutDigitsByThree) {
  for (const char* const pre : {"falcon", "default"}) {
    const auto made = text::make_tokenizer(tables_of("falcon", pre));
    const auto whole = golden_tokenizer("falcon");
    for (const std::string text : {"a 12345678 b", "it's (a, b)", "<|endoftext|>x  y\n\n z"})
      EXPECT_EQ(made.encode(text), whole.encode(text)) << pre << ": " << text;
  }
}

text::TokenizerTables sentence_piece() {
  const auto json = json_of("sentence_piece_tables");
  text::TokenizerTables tables;
  tables.model = "llama";
  tables.tokens = json["tokens"].get<std::vector<std::string>>();
  tables.scores = json["scores"].get<std::vector<float>>();
  for (const auto& type : json["types"]) tables.types.push_back(static_cast<text::TokenType>(type.get<int>()));
  tables.special_ids.bos = 1;
  tables.special_ids.eos = 2;
  return tables;
}

TEST(Tables, OfSentencePieceJoinByScore) {
  const auto tokenizer = text::make_tokenizer(sentence_piece());
  const text::EncodeOptions literal{.add_special_tokens = false, .parse_special_tokens = false};
  const auto& expected = golden()["sentence_piece"];
  for (const auto& wanted : expected["cases"]) {
    const auto ids = wanted[1].get<std::vector<text::TokenId>>();
    EXPECT_EQ(tokenizer.encode(wanted[0].get<std::string>(), literal), ids) << wanted[0];
    EXPECT_EQ(tokenizer.decode(ids), wanted[2].get<std::string>()) << wanted[0];
  }
  EXPECT_EQ(hash_of(tokenizer.encode(golden_text(), literal)), expected["text"].get<std::uint64_t>());
  for (std::size_t block = 0; block < random_strings().size(); ++block) {
    Hash hash;
    for (const std::string& text : random_strings()[block]) hash.ids(tokenizer.encode(text, literal));
    EXPECT_EQ(hash.value(), expected["random"][block].get<std::uint64_t>()) << "block " << block;
  }
}

// Texts are cut before spaces only where no token has a space behind something else.
TEST(Tables, OfSentencePieceMayJoinOverSpaces) {
  text::TokenizerTables tables;
  tables.model = "llama";
  tables.tokens = {"<unk>",
                   "\xE2\x96\x81",
                   "a",
                   "b",
                   "a\xE2\x96\x81",
                   "a\xE2\x96\x81"
                   "b"};
  tables.scores = {0, -9, -9, -9, -1, -2};
  tables.types.assign(6, text::TokenType::normal);
  tables.types[0] = text::TokenType::unknown;
  tables.add_space_prefix = false;
  EXPECT_EQ(text::make_tokenizer(tables).encode("a ba b"), (std::vector<text::TokenId>{5, 5}));
  tables.tokens.resize(4), tables.scores.resize(4), tables.types.resize(4);
  EXPECT_EQ(text::make_tokenizer(tables).encode("a  b? "), (std::vector<text::TokenId>{2, 1, 1, 3, 0, 1}));
}

TEST(Tables, PutBosAndEosAroundTexts) {
  auto tables = sentence_piece();
  tables.add_bos = tables.add_eos = true;
  const auto tokenizer = text::make_tokenizer(tables);
  const auto inner = tokenizer.encode("a", {.add_special_tokens = false});
  std::vector<text::TokenId> whole{1};
  whole.insert(whole.end(), inner.begin(), inner.end());
  whole.push_back(2);
  EXPECT_EQ(tokenizer.encode("a"), whole);
  EXPECT_EQ(tokenizer.decode(whole, {.skip_special_tokens = true}), "a");
  EXPECT_EQ(tokenizer.special_ids().bos, 1);
  EXPECT_EQ(tokenizer.special_ids().unk, 0);  // by its type
}

TEST(Tables, OfBertWriteWordsWithAMarker) {
  const auto json = json_of("bert_uncased");
  text::TokenizerTables tables;
  tables.model = "bert";
  tables.tokens.resize(json["model"]["vocab"].size());
  for (const auto& [token, id] : json["model"]["vocab"].items()) {
    const bool is_special = token.size() > 1 && token.front() == '[' && token.back() == ']';
    tables.tokens[id.get<std::size_t>()] = is_special                   ? token
                                           : token.substr(0, 2) == "##" ? token.substr(2)
                                                                        : "\xE2\x96\x81" + token;
    tables.types.push_back(id.get<int>() < 5 ? text::TokenType::control : text::TokenType::normal);
  }
  std::sort(tables.types.begin(), tables.types.end(), std::greater<>());
  const auto made = text::make_tokenizer(tables), whole = golden_tokenizer("bert_uncased");
  EXPECT_EQ(made.encode("Hello, World! [MASK] tapes"), whole.encode("Hello, World! [MASK] tapes"));
  EXPECT_EQ(made.encode(golden_text()), whole.encode(golden_text()));
  EXPECT_EQ(made.special_ids().mask, whole.special_ids().mask);
}

class Written {
 public:
  Written(const std::string& name, const std::string& content) : path(testing::TempDir() + name) {
    std::ofstream(path, std::ios::binary) << content;
  }
  ~Written() { std::remove(path.c_str()); }
  const std::string path;
};

TEST(VocabularyFiles, OfGpt2) {
  const auto json = json_of("gpt2");
  std::string merges = "#version: 0.2\n";
  for (const auto& merge : json["model"]["merges"])
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\r\n";
  const Written vocabulary("vocab.json", json["model"]["vocab"].dump()), list("merges.txt", merges);
  const auto made = text::load_byte_level_bpe(vocabulary.path, list.path);
  expect_same_ids(made, golden_tokenizer("gpt2"));
  EXPECT_EQ(made.special_ids().eos, made.id_of("<|endoftext|>"));
  EXPECT_EQ(made.encode("<|endoftext|>").size(), 1U);
}

TEST(VocabularyFiles, OfBert) {
  const auto json = json_of("bert_uncased");
  std::vector<std::string> tokens(json["model"]["vocab"].size());
  for (const auto& [token, id] : json["model"]["vocab"].items()) tokens[id.get<std::size_t>()] = token;
  std::string lines;
  for (const std::string& token : tokens) lines += token + "\n";
  const Written file("vocab.txt", lines);
  const auto made = text::load_word_piece(file.path), whole = golden_tokenizer("bert_uncased");
  EXPECT_EQ(made.encode(golden_text()), whole.encode(golden_text()));
  EXPECT_EQ(made.decode(made.encode("Hello, it's a tape!")), whole.decode(whole.encode("Hello, it's a tape!")));
  const auto cased = text::load_word_piece(file.path, {.lowercase = false});
  EXPECT_NE(cased.encode("Tape"), made.encode("Tape"));
}

}  // namespace
