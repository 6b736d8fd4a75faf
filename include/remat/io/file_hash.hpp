// XXH3-128 of files: tells bytes that were damaged from those that were written.
#pragma once

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <new>
#include <remat/core/file.hpp>
#include <string>
#include <vector>

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

/// Of all bytes of a regular file. They are read and not mapped: pages of a state as large as the model would count as
/// resident in a process that has promised how much it is.
inline std::string hash_of_file(const std::string& path) {
  const File file(path, O_RDONLY | O_NONBLOCK);
  const std::size_t size = file.size();
  std::vector<std::byte> strip(std::min<std::size_t>(size, std::size_t{1} << 20));
  FileHash hash;
  for (std::size_t at = 0; at < size; at += strip.size()) {
    const std::size_t count = std::min(strip.size(), size - at);
    file.read(strip.data(), count, at);
    hash.add(strip.data(), count);
  }
  return hash.text();
}

}}}  // namespace remat::io
