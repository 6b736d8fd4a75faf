// In the build for coverage this is found before the library's own file, which it takes in: each check that fails is
// written down by its place, for a line that was run says nothing of a rule on it that nobody broke.
#pragma once
#pragma GCC system_header  // include_next is an extension of the language

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include_next <remat/core/error.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Adds a line to the file that $REMAT_FAILED_CHECKS names. Takes no memory, since some tests count what is taken.
inline void note_failed_check(const char* file, int line) {
  const char* const path = std::getenv("REMAT_FAILED_CHECKS");
  const int log = path == nullptr ? -1 : ::open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (log < 0) return;
  char text[512];
  const int length = std::snprintf(text, sizeof text, "%s:%d\n", file, line);
  rlimit before{};  // some tests let files grow no further
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit most{before.rlim_max, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &most);
  if (length > 0 && ::write(log, text, static_cast<std::size_t>(length)) != length) std::abort();
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::close(log);
}

template <class... Parts>
void require_at(const char* file, int line, bool condition, const Parts&... parts) {
  if (condition) return;
  note_failed_check(file, line);
  fail(parts...);
}

}}  // namespace remat

#define require(...) require_at(__FILE__, __LINE__, __VA_ARGS__)
