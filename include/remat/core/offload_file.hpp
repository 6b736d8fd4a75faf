// A file for values that need not stay in memory between forward and backward.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <remat/core/error.hpp>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI {

/// An unlinked file: nothing is left behind, not even by a kill. Space is reserved before it is written, so a full disk
/// is an `Error` while every value is still in memory. Plain writes and reads, no mapping: a mapped file would end the
/// program when the disk is full, and count as resident. The system writes behind and, when told, reads ahead.
class OffloadFile {
 public:
  /// In `directory`, or the system's folder for temporary files when empty; errors say that `setting` chooses another.
  OffloadFile(std::string directory, std::string setting)
      : directory_(std::move(directory)), setting_(std::move(setting)) {
    if (directory_.empty()) directory_ = std::filesystem::temp_directory_path().string();
    std::string name = directory_ + "/remat-offload-XXXXXX";
    descriptor_ = mkostemp(name.data(), O_CLOEXEC);
    require(descriptor_ >= 0, "offload: no file can be made in ", directory_, ": ", std::strerror(errno),
            "; choose another folder with ", setting_);
    unlink(name.c_str());
  }
  OffloadFile(const OffloadFile&) = delete;
  OffloadFile& operator=(const OffloadFile&) = delete;
  ~OffloadFile() { close(descriptor_); }

  /// Where `bytes` more may be written.
  std::size_t reserve(std::size_t bytes) {
    const std::size_t begin = size_;
    if (bytes == 0) return begin;
    int result = 0;
    do {
      result = posix_fallocate(descriptor_, static_cast<off_t>(begin), static_cast<off_t>(bytes));
    } while (result == EINTR);
    require(result == 0, "offload: ", directory_, " has no room for ", bytes, " more bytes beside ", begin, ": ",
            std::strerror(result), "; free space or choose another folder with ", setting_);
    size_ += bytes;
    return begin;
  }
  void write(const std::byte* data, std::size_t bytes, std::size_t at) const {
    transfer("written", bytes, at,
             [&](std::size_t done, off_t place) { return pwrite(descriptor_, data + done, bytes - done, place); });
  }
  void read(std::byte* data, std::size_t bytes, std::size_t at) const {
    transfer("read", bytes, at,
             [&](std::size_t done, off_t place) { return pread(descriptor_, data + done, bytes - done, place); });
  }
  /// Tells the system that these bytes will be read soon.
  void read_ahead(std::size_t bytes, std::size_t at) const {
    posix_fadvise(descriptor_, static_cast<off_t>(at), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
  }

 private:
  template <class Step>
  void transfer(const char* what, std::size_t bytes, std::size_t at, Step&& step) const {
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t count = step(done, static_cast<off_t>(at + done));
      if (count < 0 && errno == EINTR) continue;
      require(count > 0, "offload: a value could not be ", what, " in ", directory_, ": ",
              count < 0 ? std::strerror(errno) : "the file is too short");
      done += static_cast<std::size_t>(count);
    }
  }

  std::string directory_, setting_;
  int descriptor_ = -1;
  std::size_t size_ = 0;
};

}}  // namespace remat
