// What tests of several ranks have in common.
#pragma once

#include <gtest/gtest.h>

#include <remat/distributed.hpp>

namespace remat_test {

/// All ranks.
remat::distributed::Group& world();

}  // namespace remat_test
