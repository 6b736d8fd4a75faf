// Text that comes token by token is never cut inside a character, and all of it is what decode gives.
#include <gtest/gtest.h>

#include <remat/text/stream_decoder.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>
#include <vector>

using namespace remat;
using namespace remat_test;

namespace {

std::string streamed(const text::Tokenizer& tokenizer, const std::vector<text::TokenId>& ids,
                     const text::DecodeOptions& options = {}) {
  text::StreamDecoder stream(tokenizer, options);
  std::string all;
  for (const text::TokenId id : ids) {
    const std::string text = stream.push(id);
    EXPECT_TRUE(data::utf8::valid(text));
    all += text;
  }
  return all + stream.finish();
}

TEST(StreamDecoder, GivesWhatDecodeGives) {
  for (const char* const name : golden_names) {
    const auto tokenizer = golden_tokenizer(name);
    for (std::size_t i = 0; i < 40; ++i) {
      const std::string& text = random_strings()[7][i];
      const auto ids = tokenizer.encode(text);
      for (const bool skip : {false, true})
        EXPECT_EQ(streamed(tokenizer, ids, {.skip_special_tokens = skip}),
                  tokenizer.decode(ids, {.skip_special_tokens = skip}))
            << name << ": " << text;
    }
  }
}

TEST(StreamDecoder, HoldsHalfACharacterBack) {
  const auto tokenizer = golden_tokenizer("gpt2");
  const auto ids = tokenizer.encode("a𝄞");  // the clef is bytes
  ASSERT_EQ(ids.size(), 5U);
  text::StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(ids[0]), "a");
  EXPECT_EQ(stream.push(ids[1]), "");
  EXPECT_EQ(stream.push(ids[2]), "");
  EXPECT_EQ(stream.push(ids[3]), "");
  EXPECT_EQ(stream.push(ids[4]), "𝄞");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push(ids[1]), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");  // what never became whole
  EXPECT_EQ(stream.push(ids[0]), "a");         // another text
}

TEST(StreamDecoder, DoesNotWaitForeverForBytesThatAreNoText) {
  const auto tokenizer = golden_tokenizer("gpt2");
  const text::TokenId half = tokenizer.encode("𝄞")[0];
  text::StreamDecoder stream(tokenizer);
  std::string all;
  for (int i = 0; i < 100; ++i) all += stream.push(half);
  EXPECT_GE(all.size(), 3U * 80);
  EXPECT_EQ((all + stream.finish()), tokenizer.decode(std::vector<text::TokenId>(100, half)));
}

}  // namespace
