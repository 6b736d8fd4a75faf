// Files: reading at an offset, and replacing a file as a whole or not at all.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <remat/core/error.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace remat::inline REMAT_ABI::io {

/// An open file descriptor. Every failure is an `Error` that names the file and the system's reason.
class File {
 public:
  File(std::string path, int flags) : path_(std::move(path)), descriptor_(open_again(path_, flags)) {
    if (descriptor_ < 0) fail_with("cannot be opened");
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(descriptor_); }

  const std::string& path() const { return path_; }

  /// Length in bytes; an `Error` for anything but a regular file.
  std::size_t size() const {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_with("cannot be examined");
    require(S_ISREG(status.st_mode), path_, ": is not a regular file; give the path of one");
    return static_cast<std::size_t>(status.st_size);
  }
  /// Exactly `count` bytes from `offset` on.
  void read(void* destination, std::size_t count, std::size_t offset) const {
    for (auto* to = static_cast<std::byte*>(destination); count > 0;) {
      const ssize_t got = ::pread(descriptor_, to, count, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail_with("cannot be read");
      require(got > 0, path_, ": ended at byte ", offset, ", ", count, " bytes early; it was cut while being read");
      to += got, offset += static_cast<std::size_t>(got), count -= static_cast<std::size_t>(got);
    }
  }
  void write(const void* source, std::size_t count) const {
    for (auto* from = static_cast<const std::byte*>(source); count > 0;) {
      const ssize_t put = ::write(descriptor_, from, count);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail_with("cannot be written");
      from += put, count -= static_cast<std::size_t>(put);
    }
  }
  void write(std::string_view text) const { write(text.data(), text.size()); }
  /// Waits until the bytes are on the disk.
  void sync() const {
    if (::fsync(descriptor_) != 0 && errno != EINVAL) fail_with("cannot be flushed to the disk");  // EINVAL: has none
  }

 private:
  static int open_again(const std::string& path, int flags) {
    for (;;) {
      const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
      if (descriptor >= 0 || errno != EINTR) return descriptor;
    }
  }
  [[noreturn]] void fail_with(const char* what) const { fail(path_, ": ", what, ": ", std::strerror(errno)); }

  std::string path_;
  int descriptor_;
};

/// Writes a new file beside `path` and renames it to `path` at `commit`: at any moment, a power failure included,
/// `path` holds the old bytes or all the new ones. Without a commit nothing remains.
class ReplacedFile {
 public:
  explicit ReplacedFile(std::string path)
      : path_(std::move(path)),
        file_(path_ + ".tmp." + std::to_string(::getpid()), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW) {}
  ReplacedFile(const ReplacedFile&) = delete;
  ReplacedFile& operator=(const ReplacedFile&) = delete;
  ~ReplacedFile() {
    if (!committed_) ::unlink(file_.path().c_str());
  }

  const File& file() const { return file_; }
  void commit() {
    file_.sync();
    require(::rename(file_.path().c_str(), path_.c_str()) == 0, path_, ": cannot be replaced: ", std::strerror(errno));
    committed_ = true;
    const std::size_t slash = path_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    File(folder, O_RDONLY | O_DIRECTORY).sync();  // the new name is a change of the folder
  }

 private:
  std::string path_;
  File file_;
  bool committed_ = false;
};

}  // namespace remat::inline REMAT_ABI::io
