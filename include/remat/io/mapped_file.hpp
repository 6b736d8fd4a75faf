// A file seen as memory: pages come from the disk when they are read, and all programs that map it share them.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <remat/io/file.hpp>
#include <span>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// A whole regular file, mapped for reading. Whoever cuts the file short meanwhile ends the program when a page that is
/// gone is read; a file that is replaced, as `ReplacedFile` does, stays as it was.
class MappedFile {
 public:
  /// Opens and maps `path`; an `Error` for anything but a regular file.
  explicit MappedFile(const std::string& path) : file_(path, O_RDONLY | O_NONBLOCK), size_(file_.size()) {
    if (size_ == 0) return;  // mmap refuses nothing
    void* const begin = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_.descriptor(), 0);
    require(begin != MAP_FAILED, path, ": its ", size_, " bytes cannot be mapped: ", std::strerror(errno));
    begin_ = begin;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (begin_) ::munmap(begin_, size_);
  }

  /// The path it was opened by.
  const std::string& path() const { return file_.path(); }
  /// All its bytes; they begin at a page.
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(begin_), size_}; }

 private:
  File file_;
  std::size_t size_;
  void* begin_ = nullptr;
};

}}}  // namespace remat::io
