// Files from anyone: what is wrong with one, or not supported, is said in one sentence with the file and the place.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <cstdio>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <remat/text/make_tokenizer.hpp>
#include <remat/text/merges.hpp>
#include <remat/text/tokenizer_json.hpp>
#include <remat/text/vocabulary_files.hpp>
#include <string>
#include <vector>

using namespace remat;
using namespace remat_test;
using Json = nlohmann::json;

namespace {

Json part(const char* text) { return Json::parse(text); }

// A small file that is right.
Json good() {
  return part(R"({"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": "a", "vocab": {"a": 0, "b": 1, "ab": 2, "abab": 3},
              "merges": [["a", "b"], "ab ab"]}})");
}
const Json unigram = part(R"({"type": "Unigram", "unk_id": 0, "vocab": [["?", 0], ["a", -1]]})");
const Json word_piece = part(R"({"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
                                 "max_input_chars_per_word": 9, "vocab": {"?": 0, "a": 1}})");

std::string error_with(const std::string& content) {
  const std::string path = testing::TempDir() + "malformed_tokenizer.json";
  std::ofstream(path, std::ios::binary) << content;
  const std::string error = error_of([&] { text::load_tokenizer(path); });
  std::remove(path.c_str());
  EXPECT_EQ(error.find(path + ": "), 0U) << error;
  EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  return error.substr(std::min(error.size(), path.size() + 2));
}

TEST(TokenizerFile, IsReadWhenItIsRight) {
  const auto parts = text::detail::read_tokenizer_json(good().dump());
  EXPECT_EQ(text::Tokenizer(parts).encode("ABAB"), (std::vector<text::TokenId>{4, 3}));
  for (const Json& model : {unigram, word_piece}) {
    Json file = good();
    file["model"] = model;
    EXPECT_EQ(text::Tokenizer(text::detail::read_tokenizer_json(file.dump())).encode("A"),
              (std::vector<text::TokenId>{4, 1}));
  }
}

struct Wrong {
  const char* place;    // a JSON pointer into the right file
  const char* value;    // what stands there instead; null: nothing
  const char* message;  // part of the error
};

void expect_refused(const Json& right, const std::vector<Wrong>& all) {
  for (const Wrong& wrong : all) {
    Json file = right;
    const Json::json_pointer place(wrong.place);
    if (wrong.value)
      file[place] = part(wrong.value);
    else
      file.at(place.parent_pointer()).erase(place.back());
    const std::string error = error_with(file.dump());
    EXPECT_NE(error.find(wrong.message), std::string::npos) << wrong.place << ": " << error;
  }
}

TEST(TokenizerFile, NamesTheWrongField) {
  expect_refused(
      good(),
      {
          {"/model", nullptr, "lacks the field \"model\""},
          {"/model", "7", "model is number, where an object is expected"},
          {"/model/type", "\"WordLevel\"", "model/type is \"WordLevel\", which is not supported"},
          {"/model/type", nullptr, "model lacks the field \"type\""},
          {"/model/vocab", nullptr, "model lacks the field \"vocab\""},
          {"/model/vocab", "[1]", "model/vocab is array, where an object is expected"},
          {"/model/vocab/ab", "1", "model/vocab is wrong: the tokens \"ab\" and \"b\" have the same id 1"},
          {"/model/vocab/ab", "-1", "model/vocab[\"ab\"] is -1, not in [0, "},
          {"/model/vocab/ab", "1e300", "model/vocab[\"ab\"] is number, where an integer is expected"},
          {"/model/vocab/ab", "18446744073709551615", "is 18446744073709551615, not in [0, "},
          {"/model/vocab/ab", "2000000000", "is 2000000000, not in [0, "},
          {"/model/vocab/ab", "\"2\"", "is string, where an integer is expected"},
          {"/model/vocab/ab", "true", "is boolean, where an integer is expected"},
          {"/model/vocab/ab", nullptr, "model/merges[0] is wrong: the merge of \"a\" and \"b\" needs the token \"ab\""},
          {"/model/merges", "{}", "model/merges is object, where an array is expected"},
          {"/model/merges/0", "[\"a\"]", "model/merges[0] is wrong: model/merges[0] is not two tokens"},
          {"/model/merges/0", "\"ab\"", "the merge \"ab\" is not two tokens with a space between"},
          {"/model/merges/0", "\"a b c\"", "the merge \"a b c\" is not two tokens"},
          {"/model/merges/0", "\"a x\"", "needs the token \"x\", which the vocabulary lacks"},
          {"/model/merges/0", "[1, 2]", "] is number, where a string is expected"},
          {"/model/unk_token", "\"x\"", "model/unk_token is not in the vocabulary"},
          {"/model/dropout", "0.1", "model/dropout is not 0"},
          {"/model/continuing_subword_prefix", "\"##\"", "joins a token that is shorter than the prefix"},
          {"/model/fuse_unk", "1", "model/fuse_unk is number, where true or false is expected"},
          {"/model/novelty", "1", "model has the field \"novelty\", which is not supported"},
          {"/novelty", "1", "the file has the field \"novelty\", which is not supported"},
          {"/version", "\"2.0\"", "version is \"2.0\", not \"1.0\""},
          {"/truncation", "{}", "truncation lacks the field \"max_length\""},
          {"/added_tokens/0/id", "3", "have the same id 3"},
          {"/added_tokens/0/id", "99999999", "added_tokens[0]/id is 99999999, not in [0, "},
          {"/added_tokens/0/content", "\"ab\"", "gives \"ab\" the id 4, but in the vocabulary it is 2"},
          {"/added_tokens/0/content", "\"\"", "added_tokens[0]/content is empty"},
          {"/added_tokens/0/special", nullptr, "added_tokens[0] lacks the field \"special\""},
          {"/added_tokens/0/lstrip", "\"no\"", "added_tokens[0]/lstrip is string"},
          {"/normalizer", "{\"type\": \"Precompiled\"}", "has the type \"Precompiled\", which is not supported"},
          {"/normalizer", "{\"type\": \"NFCC\"}", "did you mean \"NFC\""},
          {"/normalizer", "{}", "normalizer lacks the field \"type\""},
          {"/normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}",
           "normalizer/pattern/Regex is wrong: the regular expression \"(\" cannot be compiled"},
          {"/normalizer", "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"\"}",
           "an empty string is nothing to look for"},
          {"/normalizer", "{\"type\": \"Replace\", \"pattern\": {}, \"content\": \"\"}", "needs one of the fields"},
          {"/normalizer", "{\"type\": \"Sequence\"}", "normalizer lacks the field \"normalizers\""},
          {"/pre_tokenizer", "{\"type\": \"CharDelimiterSplit\", \"delimiter\": \"x\"}", "\"CharDelimiterSplit\""},
          {"/pre_tokenizer", "{\"type\": \"Digits\"}", "pre_tokenizer lacks the field \"individual_digits\""},
          {"/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "x"}, "behavior": "Gone"})",
           "pre_tokenizer/behavior is \"Gone\", not one of"},
          {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "\\h"}, "behavior": "Removed"})",
           "has the escape \\h, which is not supported"},
          {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "[a[b]]"}, "behavior": "Removed"})",
           "a class in a class"},
          {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a{2}+"}, "behavior": "Removed"})",
           "an interval with + behind it"},
          {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})", "is not one character"},
          {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})",
           "prepend_scheme is \"last\""},
          {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [
               {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
               {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})",
           "two ByteLevel pre-tokenizers are not supported"},
          {"/post_processor", "{\"type\": \"Other\"}", "post_processor has the type \"Other\""},
          {"/post_processor/special_tokens", "{}", "post_processor/special_tokens lacks the field \"<s>\""},
          {"/post_processor/special_tokens/<s>/ids", "[5]", "is 5, not in [0, 5)"},
          {"/post_processor/single", "[]", "has no Sequence \"A\""},
          {"/decoder", "{\"type\": \"CTC\"}", "decoder has the type \"CTC\""},
          {"/decoder", "{\"type\": \"Strip\", \"content\": \" \", \"start\": -1, \"stop\": 0}", "decoder/start is -1"},
          {"/decoder", "[]", "decoder is array, where an object is expected"},
      });
  Json other = good();
  other["model"] = unigram;
  expect_refused(other, {{"/model/unk_id", "2", "model/unk_id is 2, not in [0, 2)"},
                         {"/model/vocab/1", "[\"a\"]", "model/vocab[1] is no pair"},
                         {"/model/vocab/1/0", "\"?\"", "the token \"?\" appears twice"},
                         {"/model/vocab/1/1", "\"1\"", "model/vocab[1][1] is string, where a number is expected"}});
  other["model"] = word_piece;
  expect_refused(other, {{"/model/unk_token", "\"x\"", "model/unk_token is not in the vocabulary"},
                         {"/model/unk_token", nullptr, "model lacks the field \"unk_token\""},
                         {"/model/max_input_chars_per_word", "-5", "is -5, not in [0, "}});
}

TEST(TokenizerFile, CannotBlowATextUp) {
  Json file = good();
  file["normalizer"] = part(R"({"type": "Sequence", "normalizers": []})");
  for (int i = 0; i < 60; ++i)
    file["normalizer"]["normalizers"].push_back(
        part(R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})"));
  const text::Tokenizer tokenizer(text::detail::read_tokenizer_json(file.dump()));
  expect_error({"bytes of a text of 1; its file is hardly one of a model"}, [&] { tokenizer.encode("a"); });
}

TEST(TokenizerFile, CannotKeepAPatternBusyForever) {
  Json file = good();
  file["pre_tokenizer"] = part(R"({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"})");
  const text::Tokenizer tokenizer(text::detail::read_tokenizer_json(file.dump()));
  expect_error({"a regular expression of the tokenizer gave up"},
               [&] { tokenizer.encode(std::string(40, 'a') + "b"); });
}

TEST(TokenizerFile, IsJsonInUtf8) {
  EXPECT_NE(error_with("").find("is not valid JSON"), std::string::npos);
  EXPECT_NE(error_with("{\"model\": ").find("is not valid JSON"), std::string::npos);
  EXPECT_NE(error_with("[]").find("the file is array, where an object is expected"), std::string::npos);
  EXPECT_NE(error_with("{\"a\": 1, \"a\": 2}").find("has the name \"a\" twice"), std::string::npos);
  EXPECT_NE(error_with("{\"a\": \"\xFF\"}").find("is not valid UTF-8 at byte 7"), std::string::npos);
  EXPECT_NE(error_with(good().dump() + '\0' + "x").find("holds a NUL byte"), std::string::npos);
  EXPECT_NE(error_with(std::string(100000, '[')).find("more than 64 arrays"), std::string::npos);
  EXPECT_NE(error_with(good().dump() + "x").find("is not valid JSON"), std::string::npos);
  std::string nested = "{\"type\": \"Lowercase\"}";
  for (int i = 0; i < 9; ++i) nested = "{\"type\": \"Sequence\", \"normalizers\": [" + nested + "]}";
  Json file = good();
  file["normalizer"] = part(nested.c_str());
  EXPECT_NE(error_with(file.dump()).find("is the ninth Sequence inside another"), std::string::npos);
  expect_error({"/nowhere/tokenizer.json: cannot be opened"}, [] { text::load_tokenizer("/nowhere/tokenizer.json"); });
}

TEST(Tables, NameWhatIsWrong) {
  text::TokenizerTables right;
  right.name = "model.gguf";
  right.model = "gpt2";
  right.pre = "gpt-2";
  right.tokens = {"a", "b", "ab"};
  right.merges = {"a b"};
  const auto refused = [&](const char* message, auto&& change) {
    text::TokenizerTables tables = right;
    change(tables);
    expect_error({"model.gguf: ", message}, [&] { text::make_tokenizer(tables); });
  };
  refused("has no tokens", [](auto& t) { t.tokens.clear(); });
  refused("model \"rwkv\", which is not supported; supported are: gpt2, llama, bert",
          [](auto& t) { t.model = "rwkv"; });
  refused("cuts words as \"smolm\", which is not supported; did you mean \"smollm\"", [](auto& t) { t.pre = "smolm"; });
  refused("has 1 token types for 3 tokens", [](auto& t) { t.types.resize(1); });
  refused("has the token type 9", [](auto& t) { t.types.assign(3, static_cast<text::TokenType>(9)); });
  refused("a token, 1, that is not valid UTF-8", [](auto& t) { t.tokens[1] = "\xFF"; });
  refused("needs the token \"ba\"", [](auto& t) { t.merges.push_back("b a"); });
  refused("gives a role to token 3", [](auto& t) { t.special_ids.eos = 3; });
  refused("gives a role to token -1", [](auto& t) { t.special_ids.pad = -1; });
  refused("asks for bos before each text, but names none", [](auto& t) { t.add_bos = true; });
  refused("asks for eos behind each text, but names none", [](auto& t) { t.add_eos = true; });
  refused("has 0 scores for 3 tokens", [](auto& t) { t.model = "llama"; });
  refused("a score that is not a number",
          [](auto& t) { t.model = "llama", t.scores.assign(3, std::numeric_limits<float>::quiet_NaN()); });
  refused("needs the tokens [UNK], [CLS] and [SEP]", [](auto& t) { t.model = "bert"; });
  constexpr std::size_t most = std::numeric_limits<std::int32_t>::max();  // merges are numbered by int32
  expect_error({"has too many merges"}, [] { text::detail::merge_of({}, "a", "b", most, ""); });
}

TEST(NormalForm, IsOfText) {
  for (const auto form : {text::NormalForm::nfc, text::NormalForm::nfkd})
    expect_error({"text: cannot be normalized: "}, [&] { (void)text::detail::normal_form("a\xFF", form); });
}

TEST(VocabularyFiles, NameWhatIsWrong) {
  const std::string path = testing::TempDir() + "malformed_vocabulary";
  const std::string merges_path = path + ".txt";
  const auto refused = [&](const char* message, const std::string& vocabulary, const std::string& merges) {
    std::ofstream(path) << vocabulary;
    std::ofstream(merges_path) << merges;
    expect_error({path, message}, [&] { text::load_byte_level_bpe(path, merges_path); });
  };
  const std::string right = R"({"a": 0, "b": 1, "ab": 2})";
  refused("has 2 tokens with ids up to 2; they must leave no gap", R"({"a": 0, "b": 2})", "");
  refused("[\"b\"] is -1", R"({"a": 0, "b": -1})", "");
  refused("has the name \"a\" twice", R"({"a": 0, "a": 1})", "");
  refused("is not two tokens with a space between", right, "#version: 0.2\nab\n");
  refused("needs the token \"c\"", right, "a b\na c\n");
  expect_error({path, "needs the tokens [UNK]"}, [&] { text::load_word_piece(merges_path); });
  std::ofstream(path) << "[UNK]\n[CLS]\n[SEP]\na\na\n";
  expect_error({path, "the token \"a\" appears twice, with the ids 3 and 4"}, [&] { text::load_word_piece(path); });
  std::remove(path.c_str());
  std::remove(merges_path.c_str());
}

}  // namespace
