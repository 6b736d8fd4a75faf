// Texts and batches.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <remat/data.hpp>
#include <set>
#include <string>
#include <utility>

namespace {

using namespace remat;
using data::TextCorpus;
using remat_test::expect_error;

std::vector<std::int32_t> counting(std::size_t n) {
  std::vector<std::int32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

// Protects the numbering of characters: sorted, dense, the same for the same text.
TEST(Corpus, NumbersCharactersInOrder) {
  const auto corpus = TextCorpus::from_string("hello world");
  EXPECT_EQ(corpus.vocabulary_size(), 8);
  EXPECT_EQ(corpus.encode(" dehlorw"), counting(8));
  EXPECT_EQ(corpus.decode(corpus.encode("world hello")), "world hello");
  EXPECT_EQ(corpus.decode(corpus.tokens()), "hello world");
}

// Protects texts that are not English: a code point is one token, whatever its length in bytes.
TEST(Corpus, ReadsCodePoints) {
  const std::string text = "aß€😀a";
  const auto corpus = TextCorpus::from_string(text);
  EXPECT_EQ(corpus.vocabulary_size(), 4);
  EXPECT_EQ(corpus.encode("😀€ßa"), (std::vector<std::int32_t>{3, 2, 1, 0}));
  EXPECT_EQ(corpus.decode(corpus.tokens()), text);
  expect_error({"\"é\"", "U+00E9", "4"}, [&] { corpus.encode("aé"); });
  expect_error({"U+000A"}, [&] { corpus.encode("\n"); });
  expect_error({"UTF-8"}, [&] { corpus.encode("\xFF"); });
  expect_error({"token 4", "[0, 4)"}, [&] { corpus.decode(std::vector<std::int32_t>{4}); });
  expect_error({"token -1"}, [&] { corpus.decode(std::vector<std::int32_t>{-1}); });
}

// Protects files in other encodings: what is not UTF-8 is read byte by byte and comes back unchanged.
TEST(Corpus, FallsBackToBytes) {
  for (const std::string bad :
       {"a\xFF", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\x80", "\xF8xxxx"}) {
    EXPECT_FALSE(data::utf8::valid(bad));
    const auto corpus = TextCorpus::from_string(bad);
    EXPECT_EQ(corpus.tokens().size(), bad.size());
    EXPECT_EQ(corpus.decode(corpus.tokens()), bad);
  }
  for (const char32_t c : {0x0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF}) {
    std::string text;
    data::utf8::append(text, c);
    std::size_t at = 0;
    EXPECT_EQ(data::utf8::next(text, at), c);
    EXPECT_EQ(at, text.size());
  }
}

class CorpusFile : public testing::Test {
 protected:
  CorpusFile() : path(testing::TempDir() + "corpus_" + std::to_string(::getpid()) + ".txt") {}
  ~CorpusFile() override { std::filesystem::remove(path); }
  void write(const std::string& text) const { std::ofstream(path, std::ios::binary) << text; }
  std::string path;
};

// Protects reading and the split: every byte counts, and the first int(0.9 n) tokens are for training.
TEST_F(CorpusFile, ReadsAndSplits) {
  write(std::string("ab\0\r\n", 5) + "ccccccc" + "é");
  const auto bytes = TextCorpus::read_bytes(path);
  EXPECT_EQ(bytes.vocabulary_size(), 256);
  EXPECT_EQ(bytes.tokens().size(), 14U);
  EXPECT_EQ(bytes.tokens()[13], 0xA9);
  const auto characters = TextCorpus::read_characters(path);
  EXPECT_EQ(characters.tokens().size(), 13U);
  EXPECT_EQ(characters.train_tokens().size(), 11U);
  EXPECT_EQ(characters.validation_tokens().size(), 2U);
  EXPECT_EQ(characters.validation_tokens().data(), characters.train_tokens().data() + 11);
  // 0.9 * 10 = 9 exactly, as in Python.
  EXPECT_EQ(TextCorpus::from_string("0123456789").train_tokens().size(), 9U);
}

// Protects users: every refusal names the file, both numbers and the way out.
TEST_F(CorpusFile, RefusesWhatItCannotUse) {
  expect_error({path, "No such file"}, [&] { TextCorpus::read_characters(path); });
  expect_error({testing::TempDir(), "cannot be"}, [] { TextCorpus::read_bytes(testing::TempDir()); });
  write("");
  expect_error({path, "is empty"}, [&] { TextCorpus::read_characters(path); });
  expect_error({path, "is empty"}, [&] { TextCorpus::read_bytes(path); });
  write("0123456789");
  const auto corpus = TextCorpus::read_characters(path);
  expect_error({path, "first 90 %", "9 tokens", "64", "shorter length"}, [&] { corpus.train_batches(2, 64, 0); });
  expect_error({path, "last 10 %", "1 tokens", "2"}, [&] { corpus.validation_batches(2, 64); });
  expect_error({path, "batch 0"}, [&] { corpus.train_batches(0, 2, 0); });
}

// Protects the meaning of a batch: targets are the inputs one position later, windows begin everywhere and nowhere
// else.
TEST(RandomBatches, AreWindowsOfTheTokens) {
  const auto tokens = counting(20);
  const data::RandomBatches batches(tokens, 4, 8, 1);
  std::map<int, int> starts;
  for (Index step = 0; step < 3000; ++step) {
    const auto [inputs, targets] = batches.at(step);
    ASSERT_EQ(inputs.shape(), (Shape{4, 8}));
    ASSERT_EQ(targets.shape(), (Shape{4, 8}));
    for (Index row = 0; row < 4; ++row) {
      ++starts[inputs[8 * row]];
      for (Index t = 0; t < 8; ++t) {
        ASSERT_EQ(inputs[8 * row + t], inputs[8 * row] + t);
        ASSERT_EQ(targets[8 * row + t], inputs[8 * row + t] + 1);
      }
    }
  }
  EXPECT_EQ(starts.size(), 12U);  // 0 .. 11: the last window's last target is token 19
  for (const auto& [start, count] : starts) EXPECT_NEAR(count, 1000, 6 * std::sqrt(1000.0)) << start;
}

// Protects what is said of an epoch, for every way in which sizes fail to divide: no token twice, fewer than two
// windows left out, and none of them always.
TEST(RandomBatches, LeaveOutLessThanTwoWindows) {
  for (const Index length : {1, 3, 8})
    for (Index n = length + 1; n < 6 * length + 3; ++n) {
      const auto tokens = counting(static_cast<std::size_t>(n));
      const Index windows = std::max<Index>(1, (n - 1) / length - 1);  // of an epoch
      const data::RandomBatches batches(tokens, windows, length, 7);
      std::set<std::int32_t> ever;
      for (Index epoch = 0; epoch < 200; ++epoch) {
        const auto inputs = batches.at(epoch).inputs;
        const std::set<std::int32_t> seen(inputs.span().begin(), inputs.span().end());
        ASSERT_EQ(static_cast<Index>(seen.size()), inputs.size());
        ASSERT_LT(n - 1 - inputs.size(), 2 * length);
        ever.insert(seen.begin(), seen.end());
      }
      ASSERT_EQ(static_cast<Index>(ever.size()), n - 1);
    }
}

// Protects the order of an epoch: shuffled, no token twice, all but the rest of one cut, and another cut each time.
TEST(RandomBatches, SeeEveryTokenOncePerEpoch) {
  const auto tokens = counting(1003);
  const Index windows = 1002 / 8 - 1;
  const data::RandomBatches batches(tokens, windows, 8, 3);
  std::set<std::int32_t> cuts;
  for (Index epoch = 0; epoch < 20; ++epoch) {
    const auto inputs = batches.at(epoch).inputs;
    std::set<std::int32_t> starts, seen;
    bool in_order = true;
    for (Index row = 0; row < windows; ++row) {
      in_order = in_order && (row == 0 || inputs[8 * row] > inputs[8 * (row - 1)]);
      starts.insert(inputs[8 * row]);
    }
    for (const std::int32_t token : inputs.span()) seen.insert(token);
    EXPECT_EQ(static_cast<Index>(starts.size()), windows);
    EXPECT_EQ(static_cast<Index>(seen.size()), 8 * windows);
    EXPECT_FALSE(in_order);
    cuts.insert(*starts.begin());
  }
  EXPECT_GT(cuts.size(), 8U);
}

// Protects resuming: a batch depends on seed and step alone.
TEST(RandomBatches, ArePureFunctionsOfSeedAndStep) {
  const auto tokens = counting(1000);
  data::RandomBatches run(tokens, 4, 8, 5);
  const data::RandomBatches resumed(tokens, 4, 8, 5), other(tokens, 4, 8, 6);
  for (Index step = 0; step < 5; ++step) {
    const auto batch = run.next();
    EXPECT_TRUE(same_bits(batch.inputs, resumed.at(step).inputs));
    EXPECT_FALSE(same_bits(batch.inputs, other.at(step).inputs));
    EXPECT_FALSE(same_bits(batch.inputs, resumed.at(step + 1).inputs));
  }
  EXPECT_EQ(data::RandomBatches(std::span(tokens).first(9), 1, 8, 0).next().targets[7], 8);
  expect_error({"step -1"}, [&] { resumed.at(-1); });
  expect_error({"tokens", "8 tokens", "8 + 1"}, [&] { data::RandomBatches(std::span(tokens).first(8), 1, 8, 0); });
}

// Protects the validation loss over the whole split: each token but the first is a target exactly once, in order, for
// every way in which sizes fail to divide.
TEST(SequentialBatches, PredictEveryTokenOnce) {
  const auto tokens = counting(200);
  for (std::size_t n = 2; n < 70; ++n)
    for (const Index batch : {1, 2, 3, 7})
      for (const Index length : {1, 2, 5, 8, 100}) {
        const data::SequentialBatches batches{std::span(tokens).first(n), batch, length};
        std::int32_t next = 0;
        Index count = 0;
        for (const auto& [inputs, targets] : batches) {
          ASSERT_EQ(inputs.shape().rank(), 2);
          ASSERT_EQ(inputs.shape(), targets.shape());
          ASSERT_LE(inputs.shape()[0], batch);
          ASSERT_LE(inputs.shape()[1], length);
          for (Index i = 0; i < inputs.size(); ++i, ++next) {
            ASSERT_EQ(inputs[i], next);
            ASSERT_EQ(targets[i], next + 1);
          }
          ++count;
        }
        ASSERT_EQ(next, static_cast<std::int32_t>(n) - 1);
        ASSERT_EQ(batches.predictions(), next);
        ASSERT_EQ(count, batches.size());
      }
  expect_error({"1 tokens", "2"}, [&] { data::SequentialBatches(std::span(tokens).first(1), 1, 1); });
  for (const auto& [batch, length] : {std::pair<Index, Index>{0, 2}, {1, 0}, {-1, 2}})
    expect_error({"tokens: batch " + std::to_string(batch), "must be at least 1"},
                 [&, batch = batch, length = length] { data::SequentialBatches(tokens, batch, length); });
  const data::SequentialBatches some(tokens, 1, 2);
  for (const Index i : {Index{-1}, some.size()})
    expect_error({"batches: asked for batch " + std::to_string(i) + " of "}, [&] { (void)some.at(i); });
}

// Protects from batches of tokens that are gone: what points into a temporary does not compile, or owns its tokens.
using Tokens = std::vector<std::int32_t>;
static_assert(std::is_constructible_v<data::RandomBatches, const Tokens&, Index, Index, int>);
static_assert(std::is_constructible_v<data::RandomBatches, std::span<const std::int32_t>, Index, Index, int>);
static_assert(!std::is_constructible_v<data::RandomBatches, Tokens, Index, Index, int>);
static_assert(!std::is_constructible_v<data::RandomBatches, Tokens, Index, Index, int, std::string>);
static_assert(std::is_constructible_v<data::SequentialBatches, Tokens&, Index, Index>);
static_assert(!std::is_constructible_v<data::SequentialBatches, const Tokens, Index, Index>);
static_assert(std::is_same_v<decltype(std::declval<TextCorpus>().tokens()), Tokens>);
static_assert(std::is_same_v<decltype(std::declval<TextCorpus>().train_tokens()), Tokens>);
static_assert(std::is_same_v<decltype(std::declval<TextCorpus>().validation_tokens()), Tokens>);
static_assert(std::is_same_v<decltype(std::declval<TextCorpus>().vocabulary()), data::Vocabulary>);
template <class Batches>
concept GivesIterators = requires(Batches batches) {
  std::forward<Batches>(batches).begin();
};
static_assert(GivesIterators<data::SequentialBatches&> && !GivesIterators<data::SequentialBatches>);

}  // namespace
