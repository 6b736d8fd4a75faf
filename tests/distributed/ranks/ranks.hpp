// What tests of several ranks have in common.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <remat/distributed.hpp>
#include <string>

namespace remat_test {

/// All ranks.
remat::distributed::Group& world();

/// What an `Error` says that ends `body`; nothing where none does.
inline std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const remat::Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace remat_test
