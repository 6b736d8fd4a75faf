// Files of tokens: what was written comes back, and a file that is not what was written is told.
#include <core/expect_error.hpp>
#include <remat/io/token_cache.hpp>
#include <vector>

#include "io/weight_file.hpp"

namespace {

using namespace remat;
using remat_test::error_of;
using remat_test::expect_error;

class TokenCacheFile : public remat_test::WeightFile {
 protected:
  void save() const { io::save_token_cache(path, samples(), counts, 100, 77); }
  data::TokenSamples samples() const { return {tokens, is_target, offsets}; }

  template <class T>
  T get(std::size_t at) const {
    T value;
    std::memcpy(&value, bytes().data() + at, sizeof value);
    return value;
  }
  // The file with another value in it, and with fingerprints as a liar would write them.
  template <class T>
  void lie(std::size_t at, T value) const {
    std::string all = bytes();
    std::memcpy(all.data() + at, &value, sizeof value);
    io::detail::TokenCacheHeader header;
    std::memcpy(&header, all.data(), sizeof header);
    const std::size_t offset_bytes = 8 * offsets.size(), token_bytes = 4 * tokens.size();
    const std::byte* const begin = reinterpret_cast<const std::byte*>(all.data()) + sizeof header;
    io::Fingerprint contents;
    contents.add(std::span(begin, offset_bytes));
    contents.add(std::span(begin + offset_bytes, token_bytes));
    contents.add(std::span(begin + offset_bytes + token_bytes, tokens.size()));
    header.contents = contents.value();
    header.header = header.of_header();
    std::memcpy(all.data(), &header, sizeof header);
    set_bytes(all);
  }

  std::vector<std::int32_t> tokens = {5, 6, 7, 99, 1, 2};
  std::vector<std::uint8_t> is_target = {0, 0, 1, 1, 0, 1};
  std::vector<std::int64_t> offsets = {0, 4, 6};
  data::TokenSampleCounts counts{.samples = 2, .tokens = 6, .targets = 3, .cut = 1, .skipped = 4, .bad = 9};
};

// Protects the way there and back.
TEST_F(TokenCacheFile, ComesBack) {
  EXPECT_FALSE(io::TokenCache::find(path, 77));
  save();
  const io::TokenCache cache(path);
  const auto read = cache.samples();
  EXPECT_EQ(std::vector(read.tokens.begin(), read.tokens.end()), tokens);
  EXPECT_EQ(std::vector(read.is_target.begin(), read.is_target.end()), is_target);
  EXPECT_EQ(std::vector(read.offsets.begin(), read.offsets.end()), offsets);
  EXPECT_EQ(read[1].target_count(), 1);
  EXPECT_EQ(cache.vocabulary(), 100);
  EXPECT_EQ(cache.fingerprint(), 77U);
  const auto& [samples, all, targets, cut, skipped, bad] = cache.counts();
  EXPECT_EQ((std::vector{samples, all, targets, cut, skipped, bad}), (std::vector<std::int64_t>{2, 6, 3, 1, 4, 9}));
  EXPECT_TRUE(io::TokenCache::find(path, 77));
  EXPECT_FALSE(io::TokenCache::find(path, 78));  // of something else
  std::optional<io::TokenCache> copy = io::TokenCache(path);
  const io::TokenCache other = *copy;
  copy.reset();
  EXPECT_EQ(other.samples().tokens[3], 99);  // copies share the mapping
}

// Protects readers: of every beginning of a file, and of a longer one, an error says that it is none to read.
TEST_F(TokenCacheFile, IsWholeOrAnError) {
  save();
  const std::string whole = bytes();
  ASSERT_EQ(whole.size(), 96U + 24 + 24 + 6);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    set_bytes(whole.substr(0, size));
    expect_error({path, size < 8 ? "no cache of tokens" : "delete it"}, [&] { io::TokenCache{path}; });
    expect_error({path}, [&] { io::TokenCache::find(path, 77); });
  }
  set_bytes(whole + '\0');
  expect_error({path, "size is not that of its samples"}, [&] { io::TokenCache{path}; });
}

// Protects against damage: no byte of the file may be another one. A changed version is that of another program, whose
// cache is made again.
TEST_F(TokenCacheFile, HasNoOtherBytes) {
  save();
  const std::string whole = bytes();
  for (std::size_t at = 0; at < whole.size(); ++at)
    for (const int bit : {1, 0x80}) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ bit);
      set_bytes(changed);
      expect_error({path}, [&] { io::TokenCache{path}; });
      if (at >= 8 && at < 16)
        EXPECT_FALSE(io::TokenCache::find(path, 77));
      else
        expect_error({path}, [&] { io::TokenCache::find(path, 77); });
    }
}

// Protects memory from files that lie with the right fingerprints: sizes that go round, offsets outside, tokens beyond
// the vocabulary, samples without a target.
TEST_F(TokenCacheFile, MayLie) {
  save();
  const std::string whole = bytes();
  const auto refuses = [&](std::size_t at, auto value, const char* what) {
    set_bytes(whole);
    lie(at, value);
    expect_error({path, what}, [&] { io::TokenCache{path}; });
  };
  EXPECT_EQ(get<std::int64_t>(32), 2);  // samples
  EXPECT_EQ(get<std::int64_t>(40), 6);  // tokens
  for (const std::int64_t count : {std::int64_t{-1}, std::int64_t{0}, std::int64_t{3}, std::int64_t{1} << 61,
                                   (std::int64_t{1} << 61) + 2, INT64_MAX, INT64_MIN}) {
    refuses(32, count, "size is not that of its samples");
    refuses(40, count, "size is not that of its samples");
  }
  refuses(24, std::int64_t{0}, "size is not");  // a vocabulary without a token
  refuses(24, std::int64_t{99}, "token that is not below its vocabulary");
  refuses(96 + 8, std::int64_t{7}, "sample 0 has the tokens [0, 7)");
  refuses(96 + 8, std::int64_t{-4}, "sample 0");
  refuses(96, std::int64_t{1}, "do not go from 0");
  refuses(96 + 16, std::int64_t{5}, "do not go from 0");
  refuses(96 + 24, std::int32_t{-1}, "token that is not below");
  refuses(96 + 48 + 5, std::uint8_t{0}, "sample 1 has no target");
}

// Protects files of others: they are not taken for a cache, and what is no set of samples is not written.
TEST_F(TokenCacheFile, RefusesWhatItIsNot) {
  set_bytes("a letter to a friend");
  expect_error({path, "is no cache of tokens"}, [&] { io::TokenCache::find(path, 77); });
  expect_error({path, "is no cache of tokens"}, [&] { io::TokenCache{path}; });
  expect_error({"is not a regular file"}, [&] { io::TokenCache::find(testing::TempDir(), 77); });
  expect_error({path, "No such file"}, [&] {
    std::filesystem::remove(path);
    io::TokenCache{path};
  });
  counts.samples = 3;
  expect_error({path, "the counts say 3"}, [&] { save(); });
  counts.samples = 2;
  offsets[1] = 9;
  expect_error({path, "sample 0"}, [&] { save(); });
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
