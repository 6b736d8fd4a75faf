// Samples that were tokenized once, in a file that is mapped afterwards.
#pragma once

#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <remat/core/token_samples.hpp>
#include <remat/io/file.hpp>
#include <remat/io/fingerprint.hpp>
#include <remat/io/mapped_file.hpp>
#include <span>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {

/// The beginning of the file, in the byte order of the machine. Offsets (8 bytes each, one more than samples), tokens
/// (4 bytes) and flags (1 byte) follow without gaps.
struct TokenCacheHeader {
  char magic[8] = {'r', 'e', 'm', 'a', 't', 't', 'o', 'k'};
  std::uint64_t version = 1;      // 1 in another byte order is another version
  std::uint64_t fingerprint = 0;  // of all that the samples were made from
  std::int64_t vocabulary = 0;    // every token is below it
  data::TokenSampleCounts counts{};
  std::uint64_t contents = 0;  // fingerprint of what follows
  std::uint64_t header = 0;    // fingerprint of all above

  std::uint64_t of_header() const {
    Fingerprint of;
    of.add(std::as_bytes(std::span(this, 1)).first(offsetof(TokenCacheHeader, header)));
    return of.value();
  }
  static std::uint64_t of_contents(const data::TokenSamples& samples) {
    Fingerprint of;
    of.add(std::as_bytes(samples.offsets));
    of.add(std::as_bytes(samples.tokens));
    of.add(std::as_bytes(samples.is_target));
    return of.value();
  }
};
static_assert(sizeof(TokenCacheHeader) == 12 * 8 && sizeof(TokenCacheHeader) % alignof(std::int64_t) == 0);

}  // namespace detail

/// Writes samples to `path`, as a whole or not at all. Tokens are in [0, vocabulary); `fingerprint` stands for all that
/// they were made from.
inline void save_token_cache(const std::string& path, const data::TokenSamples& samples,
                             const data::TokenSampleCounts& counts, std::int64_t vocabulary,
                             std::uint64_t fingerprint) {
  samples.check(path);
  require(counts.samples == samples.size() && counts.tokens == static_cast<std::int64_t>(samples.tokens.size()), path,
          ": the counts say ", counts.samples, " samples and ", counts.tokens, " tokens, there are ", samples.size(),
          " and ", samples.tokens.size());
  detail::TokenCacheHeader header;
  header.fingerprint = fingerprint;
  header.vocabulary = vocabulary;
  header.counts = counts;
  header.contents = header.of_contents(samples);
  header.header = header.of_header();
  ReplacedFile file(path);
  file.file().write(&header, sizeof header);
  file.file().write(samples.offsets.data(), samples.offsets.size_bytes());
  file.file().write(samples.tokens.data(), samples.tokens.size_bytes());
  file.file().write(samples.is_target.data(), samples.is_target.size_bytes());
  file.commit();
}

/// A file of `save_token_cache`, mapped. All of it is checked when it is opened, which reads it once: sizes, offsets,
/// tokens and a fingerprint. Copies share the mapping.
class TokenCache {
 public:
  /// Opens `path`; an `Error` for a file that is no cache, or not as it was written.
  explicit TokenCache(const std::string& path) : TokenCache(std::make_shared<const MappedFile>(path)) { read(); }

  /// The cache at `path` that was made from what `fingerprint` stands for; nothing where there is no file, or one that
  /// was made from something else or by another version. An `Error` as above for any other file.
  static std::optional<TokenCache> find(const std::string& path, std::uint64_t fingerprint) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 && errno == ENOENT) return std::nullopt;
    TokenCache cache(std::make_shared<const MappedFile>(path));
    if (cache.header_.version != detail::TokenCacheHeader{}.version) return std::nullopt;
    cache.check_header();
    if (cache.header_.fingerprint != fingerprint) return std::nullopt;
    cache.read();
    return cache;
  }

  /// The samples, as spans into the file: good as long as a copy of this object lives.
  data::TokenSamples samples() const& { return samples_; }
  void samples() && = delete;
  /// What became of the lines that they were made from.
  const data::TokenSampleCounts& counts() const { return header_.counts; }
  /// Every token is below it.
  std::int64_t vocabulary() const { return header_.vocabulary; }
  /// What stands for all that they were made from.
  std::uint64_t fingerprint() const { return header_.fingerprint; }

 private:
  using Header = detail::TokenCacheHeader;

  explicit TokenCache(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {
    const std::size_t size = file_->bytes().size(), known = sizeof header_.magic;
    const bool is_cache = size >= known && std::memcmp(file_->bytes().data(), header_.magic, known) == 0;
    require(is_cache, file_->path(), ": is no cache of tokens; give the path of one, or of a new file");
    check(size >= sizeof header_, "ends within its header");
    std::memcpy(&header_, file_->bytes().data(), sizeof header_);
  }
  void check(bool is_right, const char* what) const {
    require(is_right, file_->path(), ": ", what, "; delete it, so that it is made again");
  }
  void check_header() const { check(header_.header == header_.of_header(), "its header is not as it was written"); }

  void read() {
    require(header_.version == Header{}.version, file_->path(), ": is of version ", header_.version, ", known is ",
            Header{}.version, "; delete it, so that it is made again");
    check_header();
    // What the counts may be at most keeps the sum below from going round.
    const std::size_t rest = file_->bytes().size() - sizeof(Header);
    const auto size = static_cast<std::int64_t>(rest);
    const auto& [samples, tokens, targets, cut, skipped, bad] = header_.counts;
    check(samples >= 0 && samples < size / 8 && tokens >= 0 && tokens <= size / 5 && header_.vocabulary > 0 &&
              8 * (samples + 1) + 5 * tokens == size,
          "its size is not that of its samples");
    const std::byte* const at = file_->bytes().data() + sizeof(Header);
    const auto offsets = static_cast<std::size_t>(samples) + 1, count = static_cast<std::size_t>(tokens);
    samples_.offsets = {reinterpret_cast<const std::int64_t*>(at), offsets};
    samples_.tokens = {reinterpret_cast<const std::int32_t*>(at + 8 * offsets), count};
    samples_.is_target = {reinterpret_cast<const std::uint8_t*>(at + 8 * offsets + 4 * count), count};
    check(header_.contents == Header::of_contents(samples_), "its contents are not as they were written");
    samples_.check(file_->path());
    for (const std::int32_t token : samples_.tokens)
      check(token >= 0 && token < header_.vocabulary, "has a token that is not below its vocabulary");
  }

  std::shared_ptr<const MappedFile> file_;
  Header header_{};
  data::TokenSamples samples_{};
};

}}}  // namespace remat::io
