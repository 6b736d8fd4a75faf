// Files: reading at an offset, and replacing a file as a whole or not at all. In core, since planners keep one, too.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <remat/core/error.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// An open file descriptor. Every failure is an `Error` that names the file and the system's reason.
class File {
 public:
  /// Opens `path` as open(2) does with these flags; a file that this makes has the permissions 0666 less the umask.
  File(const std::string& path, int flags) : File(path, Opened{open_again(path.c_str(), flags, 0666)}) {}
  /// A new file of the permissions `mode`, less the umask, for writing: `begin` and the first number that is free.
  static File with_new_name(const std::string& begin, mode_t mode) {
    for (int n = 0;; ++n) {
      std::string path = begin + std::to_string(n);
      const Opened file{open_again(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode)};
      if (file.descriptor >= 0 || errno != EEXIST) return File(std::move(path), file);
    }
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(descriptor_); }

  /// The path it was opened by.
  const std::string& path() const { return path_; }
  /// What the system knows it by, for calls that this class has not.
  int descriptor() const { return descriptor_; }

  /// Length in bytes; an `Error` for anything but a regular file.
  std::size_t size() const {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_with("cannot be examined");
    require(S_ISREG(status.st_mode), path_, ": is not a regular file; give the path of one");
    return static_cast<std::size_t>(status.st_size);
  }
  /// Takes over owner, group and permissions, as far as the system permits. Where the group stays another, its members
  /// get no more than all users.
  void take_rights(const struct stat& like) const {
    mode_t mode = like.st_mode & 0777;
    const bool has_group = ::fchown(descriptor_, like.st_uid, like.st_gid) == 0 ||
                           ::fchown(descriptor_, static_cast<uid_t>(-1), like.st_gid) == 0;
    if (!has_group) mode = (mode & 0707) | ((mode & 0007) << 3);
    ::fchmod(descriptor_, mode);  // where it fails, they stay narrower
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
  ///@{
  /// Writes all the bytes where the last write ended.
  void write(const void* source, std::size_t count) const {
    for (auto* from = static_cast<const std::byte*>(source); count > 0;) {
      const ssize_t put = ::write(descriptor_, from, count);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail_with("cannot be written");
      from += put, count -= static_cast<std::size_t>(put);
    }
  }
  void write(std::string_view text) const { write(text.data(), text.size()); }
  ///@}
  /// Waits until the bytes are on the disk.
  void sync() const {
    // EINVAL, ENOTSUP: a pipe or a device has none.
    if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != ENOTSUP) fail_with("cannot be flushed to the disk");
  }

 private:
  struct Opened {
    int descriptor;
  };
  File(std::string path, Opened file) : path_(std::move(path)), descriptor_(file.descriptor) {
    if (descriptor_ < 0) fail_with("cannot be opened");
  }
  static int open_again(const char* path, int flags, mode_t mode) {
    for (;;) {
      const int descriptor = ::open(path, flags | O_CLOEXEC, mode);
      if (descriptor >= 0 || errno != EINTR) return descriptor;
    }
  }
  [[noreturn]] void fail_with(const char* what) const { fail(path_, ": ", what, ": ", std::strerror(errno)); }

  std::string path_;
  int descriptor_;
};

/// All bytes of a regular file. An `Error` where there are more than `most`, or where it is no such file: a pipe is not
/// waited for.
inline std::string read_whole(const std::string& path, std::size_t most = SIZE_MAX) {
  const File file(path, O_RDONLY | O_NONBLOCK);
  const std::size_t size = file.size();
  require(size <= most, path, ": has ", size, " bytes, above the limit ", most);
  std::string bytes(size, '\0');
  file.read(bytes.data(), size, 0);
  return bytes;
}

/// Replaces what `path` names, links followed: a new file is written beside it and renamed to it at `commit`, so that
/// at any moment, a power failure included, there are the old bytes or all the new ones. Permissions, and where the
/// system permits it owner and group, stay those of the old file. Without a commit nothing remains. A pipe or a device
/// is nothing to replace: its bytes are written straight into it. A folder is an `Error`. Other hard links keep the old
/// bytes.
class ReplacedFile {
 public:
  /// Makes the new file; an `Error` when its folder permits none.
  explicit ReplacedFile(const std::string& path) : place_(place_of(path)), file_(opened(place_)) {
    if (place_.is_replaced && place_.exists) file_.take_rights(place_.old);
  }
  ReplacedFile(const ReplacedFile&) = delete;
  ReplacedFile& operator=(const ReplacedFile&) = delete;
  ~ReplacedFile() {
    if (place_.is_replaced && !committed_) ::unlink(file_.path().c_str());
  }

  /// What takes the new bytes.
  const File& file() const { return file_; }
  /// Flushes the new bytes to the disk, then puts the file in the place of the old one. An `Error` when it cannot be
  /// renamed.
  void commit() {
    file_.sync();
    if (!place_.is_replaced) return;
    if (::rename(file_.path().c_str(), place_.path.c_str()) != 0)
      fail(place_.path, ": cannot be replaced: ", std::strerror(errno));
    committed_ = true;
    const std::string folder = folder_of(place_.path);
    File(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY).sync();  // the new name is a change of the folder
  }

 private:
  /// What the bytes go to, and what is there already.
  struct Place {
    std::string path;
    struct stat old {};
    bool exists = false;
    bool is_replaced = true;
  };

  // With its last slash; empty for a name alone.
  static std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

  static Place place_of(const std::string& path) {
    Place place{path};
    place.exists = ::stat(path.c_str(), &place.old) == 0;
    require(place.exists || errno == ENOENT, path, ": cannot be examined: ", std::strerror(errno));
    require(!place.exists || !S_ISDIR(place.old.st_mode), path, ": is a folder; give the path of a file");
    place.is_replaced = !place.exists || S_ISREG(place.old.st_mode);
    if (!place.is_replaced) return place;  // a link in /proc may lead to a pipe that has no path
    struct stat link {};
    for (int links = 0; ::lstat(place.path.c_str(), &link) == 0 && S_ISLNK(link.st_mode); ++links) {
      char target[PATH_MAX];
      const ssize_t length = ::readlink(place.path.c_str(), target, sizeof target);
      require(length > 0 && length < PATH_MAX && links < 40, path, ": is a link that cannot be followed to its end");
      const std::string next(target, static_cast<std::size_t>(length));
      place.path = next.front() == '/' ? next : folder_of(place.path) + next;
    }
    return place;
  }
  // Never open to more users than the file it replaces, not even while it is being written.
  static File opened(const Place& place) {
    if (!place.is_replaced) return File(place.path, O_WRONLY | O_NOCTTY);
    return File::with_new_name(place.path + ".tmp." + std::to_string(::getpid()) + ".",
                               place.exists ? place.old.st_mode & 0600 : 0666);
  }

  Place place_;
  File file_;
  bool committed_ = false;
};

}}}  // namespace remat::io
