// Which tokens of a sample are to be learned.
#include <gtest/gtest.h>

#include <algorithm>
#include <core/expect_error.hpp>
#include <remat/text/instruction_sample.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>
#include <text/tokenizer_with_markers.hpp>
#include <vector>

using namespace remat;
using namespace remat_test;

namespace {

using Messages = std::vector<text::ChatMessage>;

// A sample as text: what is to be learned stands in [], token by token; line ends are |.
std::string marked(const text::Tokenizer& tokenizer, const text::InstructionSample& sample) {
  std::string all;
  for (std::size_t i = 0; i < sample.ids.size(); ++i) {
    const std::string token = tokenizer.decode(std::vector{sample.ids[i]});
    all += sample.is_target[i] != 0 ? '[' + token + ']' : token;
  }
  std::replace(all.begin(), all.end(), '\n', '|');
  return all;
}
// The same with neighbours joined.
std::string spans(const text::Tokenizer& tokenizer, const text::InstructionSample& sample) {
  std::string all = marked(tokenizer, sample);
  for (std::size_t at = 0; (at = all.find("][")) != std::string::npos;) all.erase(at, 2);
  return all;
}

const Messages talk = {
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello!"}, {"user", "Why?"}, {"assistant", "So."}};

// Protects the rule of every format: what the assistant says and the end of its turn, in every turn; no header, no line
// end behind the turn.
TEST(InstructionSample, LearnsWhatTheAssistantSaysAndTheEndOfItsTurn) {
  const auto smollm = golden_tokenizer("smollm");
  EXPECT_EQ(spans(smollm, text::chat_sample(smollm, text::smollm2_chat(), talk)),
            "<|im_start|>system|Be brief.<|im_end|>|<|im_start|>user|Hi<|im_end|>|"
            "<|im_start|>assistant|[Hello!<|im_end|>]|<|im_start|>user|Why?<|im_end|>|"
            "<|im_start|>assistant|[So.<|im_end|>]|");
  const auto llama3 = tokenizer_with_markers("llama3");
  EXPECT_EQ(spans(llama3, text::chat_sample(llama3, {text::ChatStyle::llama3, {}}, talk)),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>||Be brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>||Hi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>||[Hello!<|eot_id|>]"
            "<|start_header_id|>user<|end_header_id|>||Why?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>||[So.<|eot_id|>]");
  const auto gemma = tokenizer_with_markers("gemma");
  EXPECT_EQ(spans(gemma, text::chat_sample(gemma, {text::ChatStyle::gemma, {}}, talk)),
            "<bos><start_of_turn>user|Be brief.||Hi<end_of_turn>|<start_of_turn>model|[Hello!<end_of_turn>]|"
            "<start_of_turn>user|Why?<end_of_turn>|<start_of_turn>model|[So.<end_of_turn>]|");
  EXPECT_EQ(spans(smollm, text::chat_sample(smollm, {}, talk)),
            "System: Be brief.|User: Hi|Assistant:[ Hello!|]User: Why?|Assistant:[ So.|]");
}

// Protects training from a format that the model was not made for: the end of a turn would be learned as plain letters.
TEST(InstructionSample, RefusesAFormatWhoseMarkersAreNoTokens) {
  expect_error({"the tokenizer has no token <|im_start|>", "choose the format"}, [] {
    (void)text::chat_sample(golden_tokenizer("gpt2"), {text::ChatStyle::chatml, {}}, talk);
  });
  // One that is a token, but not behind a letter.
  auto json = nlohmann::json::parse(text::detail::read_text_file(golden_folder + "smollm.json"));
  for (auto& token : json["added_tokens"])
    if (token["content"] == "<|im_end|>") token["single_word"] = true;
  const text::Tokenizer apart(text::detail::read_tokenizer_json(json.dump()));
  expect_error({"chat: the tokenizer does not read <|im_end|> as one token", "choose the format"}, [&] {
    (void)text::chat_sample(apart, {text::ChatStyle::chatml, {}}, {{"user", "a"}, {"assistant", "b"}});
  });
}

// Protects ids and flags by hand: SmolLM2's end of a turn is also what fills its batches, and is learned nonetheless.
TEST(InstructionSample, IsTheseNumbers) {
  const auto tokenizer = golden_tokenizer("smollm");
  const auto sample = text::chat_sample(tokenizer, {text::ChatStyle::chatml, {}}, {{"user", "a"}, {"assistant", "b"}});
  const auto id = [&](const char* token) { return *tokenizer.id_of(token); };
  std::vector<text::TokenId> wanted = {1};
  const auto add = [&](const char* words) {
    for (const text::TokenId token : tokenizer.encode(words)) wanted.push_back(token);
  };
  add("user\na");
  wanted.insert(wanted.end(), {2, id("Ċ"), 1});
  add("assistant\n");
  const std::size_t answer = wanted.size();
  wanted.insert(wanted.end(), {id("b"), 2, id("Ċ")});
  EXPECT_EQ(sample.ids, wanted);
  std::vector<std::uint8_t> flags(wanted.size());
  flags[answer] = flags[answer + 1] = 1;
  EXPECT_EQ(sample.is_target, flags);
  EXPECT_EQ(sample.target_count(), 2U);
}

// Protects agreement with transformers, whose templates may mark what the assistant says (tests/golden/make_chat.py).
TEST(InstructionSample, HasTheMaskOfTransformers) {
  const auto golden = nlohmann::json::parse(text::detail::read_text_file(golden_folder + "chat.json"));
  const auto tokenizer = golden_tokenizer("smollm");
  int compared = 0;
  for (const auto& wanted : golden) {
    if (wanted["mask"].is_null()) continue;
    Messages messages;
    for (const auto& message : wanted["messages"])
      messages.push_back({message[0].get<std::string>(), message[1].get<std::string>()});
    const auto format = text::recognize_chat(wanted["template"].get<std::string>());
    const auto sample = text::chat_sample(tokenizer, format, messages);
    EXPECT_EQ(sample.ids, wanted["ids"].get<std::vector<text::TokenId>>());
    EXPECT_EQ(sample.is_target, wanted["mask"].get<std::vector<std::uint8_t>>()) << wanted["name"];
    ++compared;
  }
  EXPECT_EQ(compared, 6);
}

// Protects answers that begin with white space: it may become one token with the header's line end, which is then no
// target, while all that begins behind the header is.
TEST(InstructionSample, LeavesOutATokenThatBeginsInTheHeader) {
  const auto tokenizer = tokenizer_with_markers("gemma");  // two line ends are one token
  const text::ChatFormat chatml{text::ChatStyle::chatml, {}};
  const auto end = [&](const char* answer) {
    const auto sample = text::chat_sample(tokenizer, chatml, {{"assistant", answer}});
    return spans(tokenizer, sample).substr(std::string("<|im_start|>assistant").size());
  };
  EXPECT_EQ(end(""), "|[<|im_end|>]|");
  EXPECT_EQ(end("Hello"), "|[Hello<|im_end|>]|");
  EXPECT_EQ(end("\nHello"), "||[Hello<|im_end|>]|");
  EXPECT_EQ(end("\n\nHello"), "||[|Hello<|im_end|>]|");
  EXPECT_EQ(end("\n"), "||[<|im_end|>]|");
  EXPECT_EQ(end("<|im_end|>\nx"), "|[<|im_end|>|x<|im_end|>]|");  // markers in what is said are what is said
}

Messages random_talk(SplitMix& random) {
  Messages messages;
  for (std::size_t turn = 0, turns = 1 + random.below(3); turn < turns; ++turn)
    for (const char* role : {"user", "assistant"}) {
      // Half of them begin with what a header's end may be joined with.
      const char* const begins[] = {"", "", "", "\n", "\n\n", " "};
      messages.push_back({role, begins[random.below(6)] + random_strings()[random.below(100)][random.below(100)]});
    }
  return messages;
}

// How many bytes of the text a token of a byte-level tokenizer is: its characters stand for bytes.
std::size_t bytes_of(const text::Tokenizer& tokenizer, text::TokenId id) {
  const std::string& token = tokenizer.token_of(id);
  if (tokenizer.is_special(id)) return token.size();
  std::size_t count = 0;
  for (const char c : token) count += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  return count;
}

// Protects the promise about ids and targets, on random conversations: the ids are those of `encode_chat`, and a token
// is a target exactly where it begins within an answer. Of byte-level tokenizers this is counted byte by byte.
TEST(InstructionSample, HasTheTokensThatBeginInAnswers) {
  const std::pair<std::string, text::ChatFormat> cases[] = {{"smollm", text::smollm2_chat()},
                                                            {"llama3", {text::ChatStyle::llama3, {}}},
                                                            {"llama3", {text::ChatStyle::chatml, {}}},
                                                            {"gpt2", {text::ChatStyle::gemma, {}}},
                                                            {"smollm", {}},
                                                            {"llama3", {}}};
  for (const auto& [name, format] : cases) {
    const auto tokenizer = tokenizer_with_markers(name);
    SplitMix random{7};
    std::size_t across = 0;
    for (std::size_t n = 0; n < 300; ++n) {
      const Messages messages = random_talk(random);
      const auto sample = text::chat_sample(tokenizer, format, messages);
      ASSERT_EQ(sample.ids, text::encode_chat(tokenizer, format, messages)) << name;
      const auto chat = text::render_chat_with_answers(format, messages);
      std::size_t at = 0;
      for (std::size_t i = 0; i < sample.ids.size(); ++i) {
        const std::size_t next = at + bytes_of(tokenizer, sample.ids[i]);
        bool is_target = false;
        for (const auto& [begin, end] : chat.answers) {
          is_target |= at >= begin && at < end;
          across += at < begin && next > begin;
        }
        ASSERT_EQ(sample.is_target[i] != 0, is_target) << name << ", token " << i << " of " << chat.text;
        at = next;
      }
      ASSERT_EQ(at, chat.text.size());
    }
    EXPECT_EQ(across > 0, format.style == text::ChatStyle::chatml) << name;  // where answers are not trimmed
  }
}

// The same of tokenizers that normalize: where encoding what is before a place gives the beginning of all tokens, and
// mostly it does, this says which are targets.
TEST(InstructionSample, AgreesWithEncodingWhatIsBefore) {
  const std::pair<std::string, text::ChatFormat> cases[] = {{"gemma", {text::ChatStyle::gemma, {}}},
                                                            {"qwen2", {text::ChatStyle::chatml, {}}},
                                                            {"llama2", {text::ChatStyle::chatml, {}}},
                                                            {"llama2", {}},
                                                            {"gemma", {}}};
  for (const auto& [name, format] : cases) {
    const auto tokenizer = tokenizer_with_markers(name);
    SplitMix random{7};
    std::size_t known = 0;
    for (std::size_t n = 0; n < 200; ++n) {
      const Messages messages = random_talk(random);
      const auto sample = text::chat_sample(tokenizer, format, messages);
      ASSERT_EQ(sample.ids, text::encode_chat(tokenizer, format, messages)) << name;
      const auto chat = text::render_chat_with_answers(format, messages);
      std::vector<std::uint8_t> wanted(sample.ids.size());
      bool is_known = true;
      for (const auto& [begin, end] : chat.answers) {
        const auto before = tokenizer.encode(chat.text.substr(0, begin), {.add_special_tokens = false});
        const auto whole = tokenizer.encode(chat.text.substr(0, end), {.add_special_tokens = false});
        is_known &= std::equal(before.begin(), before.end(), sample.ids.begin()) &&
                    std::equal(whole.begin(), whole.end(), sample.ids.begin());
        if (is_known) std::fill(wanted.begin() + std::ssize(before), wanted.begin() + std::ssize(whole), 1);
      }
      if (!is_known) continue;
      ++known;
      ASSERT_EQ(sample.is_target, wanted) << name << ": " << chat.text;
    }
    EXPECT_GT(known, 50U) << name;
  }
}

// Protects texts without a chat format: the completion and the end are learned; of a text all but the first token.
TEST(InstructionSample, OfTextsWithoutAFormat) {
  const auto gpt2 = golden_tokenizer("gpt2");  // names no token that ends texts
  EXPECT_EQ(spans(gpt2, text::completion_sample(gpt2, "2 + 2 =", " 4")), "2 + 2 =[ 4]");
  EXPECT_EQ(marked(gpt2, text::text_sample(gpt2, "a b c")), "a[ b][ c]");
  const auto gemma = golden_tokenizer("gemma");  // begins texts with <s>, ends them with </s>
  EXPECT_EQ(spans(gemma, text::completion_sample(gemma, "2 + 2 =", " 4")), "<s>2 + 2 =[ 4</s>]");
  EXPECT_EQ(spans(gemma, text::completion_sample(gemma, "2", "")), "<s>2[</s>]");
  EXPECT_EQ(spans(gemma, text::text_sample(gemma, "a b")), "<s>[a b</s>]");
  EXPECT_EQ(spans(gemma, text::text_sample(gemma, "<s>a</s>")), "<s>[a</s>]");  // both are there already
  // Encoded apart "ab" and "c" may be other tokens than "abc"; those of the whole are taken.
  const auto sample = text::completion_sample(gpt2, "th", "e other");
  EXPECT_EQ(sample.ids, gpt2.encode("the other"));
  EXPECT_EQ(sample.target_count(), sample.ids.size() - (gpt2.encode("the").size() == 1 ? 1 : 2));
}

// Protects memory: the end goes, and a sample of which no target is left says so.
TEST(InstructionSample, IsCutAtItsEnd) {
  text::InstructionSample sample{{1, 2, 3, 4, 5}, {0, 0, 0, 1, 1}};
  EXPECT_TRUE(sample.truncate(4));  // 4 positions predict the fifth token
  EXPECT_EQ(sample.ids.size(), 5U);
  EXPECT_TRUE(sample.truncate(3));
  EXPECT_EQ(sample.ids, (std::vector<text::TokenId>{1, 2, 3, 4}));
  EXPECT_EQ(sample.target_count(), 1U);
  EXPECT_FALSE(sample.truncate(2));
}

TEST(InstructionSample, RefusesWhatHasNothingToLearn) {
  const auto smollm = golden_tokenizer("smollm");
  expect_error({"no turn of the assistant"}, [&] { text::chat_sample(smollm, {}, {{"user", "x"}}); });
  expect_error({"no token to learn"}, [&] { text::text_sample(golden_tokenizer("gpt2"), ""); });
  expect_error({"no token <start_of_turn>"}, [&] {
    text::chat_sample(smollm, {text::ChatStyle::gemma, {}}, {{"user", ""}});
  });
  expect_error({"not valid UTF-8"}, [&] { text::text_sample(smollm, "\xFF"); });
}

}  // namespace
