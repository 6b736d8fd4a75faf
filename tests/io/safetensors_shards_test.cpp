// Weights in several files with an index.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <filesystem>
#include <remat/core/eigen.hpp>
#include <remat/io/safetensors_shards.hpp>
#include <string>
#include <vector>

#include "io/weight_file.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

class Shards : public remat_test::WeightFile {
 protected:
  const std::string folder = std::filesystem::path(path).parent_path();
  const std::string index = folder + "/model.safetensors.index.json";

  void write_index(const std::string& text) const { std::ofstream(index, std::ios::binary) << text; }
  void write_shard(const std::string& name, const std::vector<std::string>& tensors) const {
    ParameterRegistry parameters(1);
    float value = 0;
    for (const std::string& tensor : tensors)
      (parameters / tensor).parameter<float>("w", {2, 3}, init::constant(value += 1));
    io::save_safetensors(parameters, folder + "/" + name);
  }
};

// Protects large models: tensors are found in whichever file the index names.
TEST_F(Shards, AreReadAsOne) {
  write_shard("one.safetensors", {"a", "b", "unnamed"});
  write_shard("two.safetensors", {"c"});
  write_index(R"({"metadata":{"total_size":72},"weight_map":{"c/w":"two.safetensors","a/w":"one.safetensors",)"
              R"("b/w":"one.safetensors"}})");
  const io::SafetensorsShards shards(index);
  EXPECT_EQ(shards.names(), (std::vector<std::string>{"a/w", "b/w", "c/w"}));
  EXPECT_EQ(shards.read<float>("b/w")[5], 2.0F);
  EXPECT_EQ(shards.read_as<double>("c/w")[0], 1.0);
  EXPECT_EQ(shards.info("a/w").shape, (Shape{2, 3}));
  EXPECT_EQ(shards.file_of("c/w").path(), folder + "/two.safetensors");
  std::vector<float> row(3);
  shards.read_into("b/w", std::span(row), 3);
  EXPECT_EQ(row, std::vector<float>(3, 2.0F));
  EXPECT_TRUE(shards.contains("a/w"));
  EXPECT_FALSE(shards.contains("unnamed/w"));
  expect_error({index, "no tensor \"a/v\"", "nearest", "a/w"}, [&] { shards.read<float>("a/v"); });
}

// Protects programs that take either: a single file is all there is.
TEST_F(Shards, ASingleFileIsOneShard) {
  write_shard("model.safetensors", {"a", "b"});
  const io::SafetensorsShards shards(path);
  EXPECT_EQ(shards.names(), (std::vector<std::string>{"a/w", "b/w"}));
  EXPECT_EQ(shards.read<float>("b/w")[0], 2.0F);
}

// Protects the process and other files: an index comes from a stranger.
TEST_F(Shards, BadIndicesAreRefused) {
  write_shard("one.safetensors", {"a"});
  const std::string deep = std::string(100000, '[');
  const std::pair<std::string, std::string_view> cases[] = {
      {"", "no valid JSON"},
      {"{", "no valid JSON"},
      {"[]", "no object \"weight_map\""},
      {"null", "no object \"weight_map\""},
      {"{}", "no object \"weight_map\""},
      {R"({"weight_map":[]})", "no object \"weight_map\""},
      {R"({"weight_map":"one.safetensors"})", "no object \"weight_map\""},
      {R"({"weight_map":{"a/w":1}})", "names no file for \"a/w\", but number"},
      {R"({"weight_map":{"a/w":null}})", "but null"},
      {R"({"weight_map":{"a/w":["one.safetensors"]}})", "but array"},
      {R"({"weight_map":{"a/w":""}})", "only files beside the index"},
      {R"({"weight_map":{"a/w":".."}})", "only files beside the index"},
      {R"({"weight_map":{"a/w":"../one.safetensors"}})", "only files beside the index"},
      {R"({"weight_map":{"a/w":"/etc/passwd"}})", "only files beside the index"},
      {R"({"weight_map":{"a/w":"one.safetensors\u0000x"}})", "only files beside the index"},
      {R"({"weight_map":{"a/w":"one.safetensors","a/w":"one.safetensors"}})", "\"a/w\" twice"},
      {R"({"weight_map":{},"weight_map":{}})", "\"weight_map\" twice"},
      {R"({"weight_map":{"b/w":"one.safetensors"}})", "\"b/w\" is in one.safetensors, where it is not"},
      {R"({"weight_map":{"a/w":)" + deep, "more than 16 deep"},
      {deep, "more than 16 deep"},
  };
  for (const auto& [text, rule] : cases) {
    SCOPED_TRACE(text.substr(0, 200));
    write_index(text);
    expect_error({index, rule}, [&] { io::SafetensorsShards{index}; });
  }
  write_index(R"({"weight_map":{"a/w":"three.safetensors"}})");
  expect_error({"three.safetensors", "No such file"}, [&] { io::SafetensorsShards{index}; });
  write_index(R"({"metadata":{"a/w":1,"b":{"a/w":2}},"weight_map":{"a/w":"one.safetensors"},"a/w":3,"2a/w":4})");
  EXPECT_TRUE(io::SafetensorsShards(index).contains("a/w"));
}

}  // namespace
