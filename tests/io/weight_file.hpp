// A file of its own, in a folder of its own, for one test.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace remat_test {

class WeightFile : public testing::Test {
 protected:
  WeightFile() {
    const std::string folder = testing::TempDir() + "weights_" + std::to_string(::getpid());
    std::filesystem::create_directory(folder);
    path = folder + "/model.safetensors";
  }
  ~WeightFile() override { std::filesystem::remove_all(std::filesystem::path(path).parent_path()); }

  std::string bytes() const {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void set_bytes(const std::string& bytes) const { std::ofstream(path, std::ios::binary) << bytes; }
  /// 8 bytes of length, then the header.
  static std::string with_length(const std::string& header) {
    const std::uint64_t length = header.size();
    std::string text(8, '\0');
    std::memcpy(text.data(), &length, 8);
    return text + header;
  }

  std::string path;
};

}  // namespace remat_test
