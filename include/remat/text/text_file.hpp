// Files of text, read whole.
#pragma once

#include <cstddef>
#include <remat/core/file.hpp>
#include <remat/text/unicode.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// The bytes of a file from anyone, which must be UTF-8.
inline std::string read_text_file(const std::string& path) {
  const io::File file(path, O_RDONLY | O_NONBLOCK);  // a pipe must not block
  std::string text(file.size(), '\0');
  file.read(text.data(), text.size(), 0);
  const std::size_t invalid = first_invalid(text);
  require(invalid == text.size(), path, ": is not valid UTF-8 at byte ", invalid);
  return text;
}

}}}  // namespace remat::text::detail
