// Instruction data that are tokenized once. Needs remat::text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <remat/core/config.hpp>
#include <remat/core/error.hpp>
#include <remat/io/fingerprint.hpp>
#include <remat/io/mapped_file.hpp>
#include <remat/io/token_cache.hpp>
#include <remat/text/instruction_data.hpp>
#include <remat/text/tokenizer.hpp>
#include <remat/text/unicode.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {

// All tokens with what is known of each, and what becomes of texts that tokenizers cut in different ways: these here,
// and the beginning of the data. What a tokenizer is made of cannot be read, so this is nearly all of it.
inline void add_tokenizer(Fingerprint& print, const text::Tokenizer& tokenizer, std::string_view data) {
  for (text::TokenId id = 0; id < tokenizer.vocabulary_size(); ++id) {
    try {
      print.add(tokenizer.token_of(id));
    } catch (const Error&) {  // a number that is no token
      print.add(std::uint64_t{0});
    }
  }
  for (const text::AddedToken& token : tokenizer.added_tokens()) {
    print.add(token.content);
    print.add(static_cast<std::uint64_t>(token.id) << 5 | unsigned{token.special} << 4 |
              unsigned{token.single_word} << 3 | unsigned{token.lstrip} << 2 | unsigned{token.rstrip} << 1 |
              unsigned{token.normalized});
  }
  const auto& ids = tokenizer.special_ids();
  for (const auto id : {ids.bos, ids.eos}) print.add(static_cast<std::uint64_t>(id.value_or(-1)));
  for (const std::string& probe :
       {std::string(),
        std::string("It's 12345.67 \t\n\n  A\u0301 \u00E9t\u00E9 \uFB01 \u4E2D\u6587 f(x) == {y;}\r\n I'LL"),
        text::detail::repaired(data.substr(0, 1 << 16))})
    print.add(std::as_bytes(std::span<const text::TokenId>(tokenizer.encode(probe))));
}

}  // namespace detail

/// What `read_instructions` would make depends on: the bytes of the data, the tokenizer, the options, the library.
inline std::uint64_t instruction_fingerprint(const std::string& path, const text::Tokenizer& tokenizer,
                                             const text::InstructionOptions& options) {
  Fingerprint print;
  print.add(std::string_view(version()));
  print.add(options.chat ? static_cast<std::uint64_t>(options.chat->style) : ~std::uint64_t{0});
  print.add(options.chat ? options.chat->default_system : std::string());
  print.add(options.context);
  print.add(std::uint64_t{options.skip_bad_lines});
  const MappedFile data(path);
  print.add(data.bytes());
  detail::add_tokenizer(print, tokenizer, {reinterpret_cast<const char*>(data.bytes().data()), data.bytes().size()});
  return print.value();
}

/// As `text::read_instructions`, whose result is kept in the file `cache`, so that the next program only maps it. It is
/// made again where the data, the tokenizer, the options or the library are others. An `Error` for a file that is no
/// cache, which is not touched, or a damaged one.
inline TokenCache cached_instructions(const std::string& cache, const std::string& path,
                                      const text::Tokenizer& tokenizer, const text::InstructionOptions& options = {}) {
  const std::uint64_t fingerprint = instruction_fingerprint(path, tokenizer, options);
  if (auto found = TokenCache::find(cache, fingerprint)) return *std::move(found);
  const text::InstructionData data = text::read_instructions(path, tokenizer, options);
  save_token_cache(cache, data.samples(), data.counts(), tokenizer.vocabulary_size(), fingerprint);
  return TokenCache(cache);
}

}}}  // namespace remat::io
