// XXH3-128 of files: tells bytes that were damaged from those that were written.
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdio>
#include <memory>
#include <new>
#include <remat/io/mapped_file.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// XXH3-128 of all that is added, in this order. Against accidents, not against people. Needs libxxhash.
class FileHash {
 public:
  FileHash() : state_(XXH3_createState(), XXH3_freeState) {
    if (!state_) throw std::bad_alloc();
    XXH3_128bits_reset(state_.get());
  }
  /// Bytes, wherever the last ended.
  void add(const void* bytes, std::size_t count) { XXH3_128bits_update(state_.get(), bytes, count); }
  /// 32 hexadecimal digits, as `xxhsum -H2` prints them.
  std::string text() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    char digits[33];
    std::snprintf(digits, sizeof digits, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                  static_cast<unsigned long long>(hash.low64));
    return digits;
  }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

/// Of all bytes of a regular file.
inline std::string hash_of_file(const std::string& path) {
  const MappedFile file(path);
  FileHash hash;
  hash.add(file.bytes().data(), file.bytes().size());
  return hash.text();
}

}}}  // namespace remat::io
