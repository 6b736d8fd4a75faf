// What Hugging Face's tokenizers made of texts (tests/golden/make_tokenizers.py), and the texts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <remat/text/text_file.hpp>
#include <remat/text/tokenizer_json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat_test {

using namespace remat;

inline const std::string golden_folder = REMAT_SOURCE_DIR "/tests/golden/tokenizers/";
inline constexpr const char* golden_names[] = {"gpt2",       "smollm",       "llama3", "qwen2",   "falcon",
                                               "roberta",    "llama2",       "gemma",  "unigram", "unigram_bytes",
                                               "bert_cased", "bert_uncased", "odd"};

inline const nlohmann::json& golden() {
  static const auto parsed = nlohmann::json::parse(text::detail::read_text_file(golden_folder + "golden.json"));
  return parsed;
}
inline const std::string& golden_text() {
  static const std::string text = text::detail::read_text_file(golden_folder + "text.txt");
  return text;
}
inline text::Tokenizer golden_tokenizer(const std::string& name) {
  return text::load_tokenizer(golden_folder + name + ".json");
}

/// FNV-1a of 64 bits.
class Hash {
 public:
  void bytes(std::string_view all) {
    for (const char byte : all) add(static_cast<unsigned char>(byte));
  }
  void ids(const std::vector<text::TokenId>& all) {
    for (const text::TokenId id : all)
      for (int shift = 0; shift < 32; shift += 8) add((static_cast<std::uint32_t>(id) >> shift) & 255U);
  }
  std::uint64_t value() const { return (value_ ^ 0xFF) * prime; }

 private:
  static constexpr std::uint64_t prime = 0x100000001B3;
  void add(std::uint64_t byte) { value_ = (value_ ^ byte) * prime; }
  std::uint64_t value_ = 0xCBF29CE484222325;
};
inline std::uint64_t hash_of(std::string_view text) {
  Hash hash;
  hash.bytes(text);
  return hash.value();
}
inline std::uint64_t hash_of(const std::vector<text::TokenId>& ids) {
  Hash hash;
  hash.ids(ids);
  return hash.value();
}

/// splitmix64 (Steele, Lea, Flood 2014), as in make_tokenizers.py.
struct SplitMix {
  std::uint64_t state;
  std::size_t below(std::size_t n) {
    std::uint64_t z = state += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return static_cast<std::size_t>((z ^ (z >> 31)) % n);
  }
};

/// The random strings, 100 a block: characters assigned in Unicode 14, and fragments that tokenizers look at.
inline const std::vector<std::vector<std::string>>& random_strings() {
  static const auto made = [] {
    std::vector<char32_t> points;
    const auto& ends = golden()["alphabet"];
    for (std::size_t i = 0; i < ends.size(); i += 2)
      for (auto c = ends[i].get<char32_t>(); c < ends[i + 1].get<char32_t>(); ++c) points.push_back(c);
    const auto below = [&](char32_t end) {
      return static_cast<std::size_t>(std::lower_bound(points.begin(), points.end(), end) - points.begin());
    };
    const std::size_t counts[] = {below(0x250), below(0x3400), points.size()};
    const auto fragments = golden()["fragments"].get<std::vector<std::string>>();
    std::vector<std::vector<std::string>> blocks(100);
    for (std::size_t block = 0; block < 100; ++block) {
      SplitMix random{block};
      for (int n = 0; n < 100; ++n) {
        const std::size_t length = random.below(33), mode = random.below(6);
        std::string& text = blocks[block].emplace_back();
        for (std::size_t i = 0; i < length; ++i) {
          if (mode == 0) text += static_cast<char>(32 + random.below(95));
          if (mode == 1) text += static_cast<char>(random.below(128));
          if (mode >= 2 && mode <= 4) data::utf8::append(text, points[random.below(counts[mode - 2])]);
          if (mode == 5) text += fragments[random.below(fragments.size())];
        }
      }
    }
    return blocks;
  }();
  return made;
}

}  // namespace remat_test
