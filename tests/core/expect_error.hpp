// What an error says: the tests of refusals read it.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <remat/core/error.hpp>
#include <string>
#include <string_view>

namespace remat_test {

/// The text of the Error that `f` throws; a failure of the test if it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const remat::Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no remat::Error was thrown";
  return {};
}

/// `f` throws an Error whose text holds all of `parts`.
template <class F>
void expect_error(std::initializer_list<std::string_view> parts, F&& f) {
  const std::string text = error_of(f);
  for (const std::string_view part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << '"' << text << "\" lacks \"" << part << '"';
}

}  // namespace remat_test
