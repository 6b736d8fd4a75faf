// Files of JSON Lines, read line by line: a value a line.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/core/error.hpp>
#include <remat/core/file.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// `f(line, number)` for each line that is not blank, without its end; the first is number 1. The file is read piece by
/// piece: it may be larger than memory.
template <class F>
void each_json_line(const std::string& path, F&& f) {
  const io::File file(path, O_RDONLY | O_NONBLOCK);  // a pipe must not block
  const std::size_t size = file.size();
  std::size_t number = 0;
  const auto give = [&](std::string_view line) {
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) f(line, number);
  };
  std::string piece;  // begins with what is left of the piece before
  for (std::size_t at = 0; at < size;) {
    const std::size_t left = piece.size(), count = std::min<std::size_t>(size - at, std::size_t{1} << 20);
    piece.resize(left + count);
    file.read(piece.data() + left, count, at);
    at += count;
    std::size_t begin = 0;
    for (std::size_t end = piece.find('\n', left); end != std::string::npos; end = piece.find('\n', begin)) {
      give(std::string_view(piece).substr(begin, end - begin));
      begin = end + 1;
    }
    piece.erase(0, begin);
  }
  if (!piece.empty()) give(piece);
}

/// The value of one line.
inline Json parse_json_line(std::string_view line) {
  const std::size_t invalid = first_invalid(line);
  require(invalid == line.size(), "is not valid UTF-8 at byte ", invalid);
  try {
    return parse_json(line);
  } catch (const Error& error) {
    std::string what = error.what();  // the parser counts lines, too, of which it saw one
    const std::size_t place = what.find("at line 1, ");
    if (place != std::string::npos) what.erase(place + 3, 8);
    throw Error(what);
  }
}

}}}  // namespace remat::text::detail
