// Where the files of tests/golden are.
#pragma once

#include <string>

namespace remat_test {

/// The path of a file or folder there.
inline std::string golden(const std::string& name) { return REMAT_SOURCE_DIR "/tests/golden/" + name; }

}  // namespace remat_test
