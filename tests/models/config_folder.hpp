// Folders of a test with the config of a golden model, to be changed.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <remat/io/hugging_face.hpp>
#include <string>
#include <string_view>

#include "core/expect_error.hpp"
#include "models/golden.hpp"

namespace remat_test {

// A folder of this test with the config of a golden one, to be changed.
struct ConfigFolder {
  std::filesystem::path path;
  nlohmann::json original;
  explicit ConfigFolder(const std::string& family)
      : path(std::filesystem::path(testing::TempDir()) /
             ("remat_hugging_face_config_" + std::to_string(::getpid()) + "_" + family)) {
    std::filesystem::remove_all(path);
    std::filesystem::copy(golden(family), path);
    std::ifstream in(path / "config.json");
    original = nlohmann::json::parse(in);
  }
  ~ConfigFolder() { std::filesystem::remove_all(path); }
  remat::models::DecoderConfig read(const nlohmann::json& config) const {
    std::ofstream(path / "config.json") << config;
    return remat::io::decoder_config(remat::io::HuggingFaceFolder(path.string()));
  }
  /// With one field another, or without it.
  remat::models::DecoderConfig with(const char* field, const nlohmann::json& value) const {
    nlohmann::json changed = original;
    value.is_discarded() ? (void)changed.erase(field) : (void)(changed[field] = value);
    return read(changed);
  }
  void refuses(const char* field, const nlohmann::json& value, std::initializer_list<std::string_view> parts) const {
    expect_error(parts, [&] { with(field, value); });
  }
};
inline const nlohmann::json missing(nlohmann::json::value_t::discarded);

}  // namespace remat_test
