// Files of text, read whole.
#pragma once

#include <cstddef>
#include <remat/core/file.hpp>
#include <remat/text/unicode.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// The bytes of a file from anyone, which must be UTF-8.
inline std::string read_text_file(const std::string& path) {
  std::string text = io::read_whole(path);
  const std::size_t invalid = first_invalid(text);
  require(invalid == text.size(), path, ": is not valid UTF-8 at byte ", invalid);
  return text;
}

}}}  // namespace remat::text::detail
