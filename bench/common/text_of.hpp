// Numbers as programs print them.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>

namespace programs {

/// As printf would print it, up to 511 characters.
template <class... Values>
std::string text_of(const char* format, Values... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

inline double mib(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace programs
