// States of a training that were damaged or written by others: each is an Error that names the file, or holds what was
// written; nothing crashes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <core/expect_error.hpp>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <remat/io/state_folder.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace remat;
using io::detail::StateFolder, io::detail::StateManifest;
using remat_test::expect_error;
namespace fs = std::filesystem;

void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}
std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class StateMalformed : public testing::Test {
 protected:
  StateMalformed() {
    fs::create_directories(folder);
    StateFolder(folder).write(state, {{"model.safetensors", [](const auto& path) { write_bytes(path, "weights"); }},
                                      {"rest.safetensors", [](const auto& path) { write_bytes(path, "moments"); }}});
  }
  ~StateMalformed() override { fs::remove_all(folder); }

  StateManifest read() const { return StateFolder(folder).read(state.step); }
  /// Is it refused by an Error that names a file of it? Whoever reads it otherwise must find what was written.
  bool is_refused() const {
    try {
      const StateManifest found = read();
      EXPECT_EQ(found.step, state.step);
      EXPECT_EQ(found.loss, state.loss);
      EXPECT_EQ(found.must, state.must);
      EXPECT_EQ(found.may, state.may);
      EXPECT_EQ(found.frozen, state.frozen);
      EXPECT_EQ(bytes_of(place + "/model.safetensors"), "weights");
      EXPECT_EQ(bytes_of(place + "/rest.safetensors"), "moments");
      return false;
    } catch (const Error& error) {
      EXPECT_EQ(std::string_view(error.what()).substr(0, place.size()), place);
      return true;
    }
  }
  /// The manifest as the first format had it, without its hash: what may stand in one that a stranger wrote.
  nlohmann::ordered_json first_format() const {
    auto json = nlohmann::ordered_json::parse(bytes_of(manifest));
    json.erase("xxh3_128");
    json["format"] = 1;
    return json;
  }

  const StateManifest state{12, 1.5, {{"data", "a.txt"}}, {{"processor", "one"}}, "0123"};
  // A thousand times written: in memory, where there is such a folder.
  const std::string folder = (fs::is_directory("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string()) +
                             "/remat_malformed_" + std::to_string(::getpid());
  const std::string place = folder + "/step-12", manifest = place + "/manifest.json";
};

TEST_F(StateMalformed, IsReadWhenItIsRight) {
  EXPECT_FALSE(is_refused());
  write_bytes(manifest, first_format().dump());  // by the version before
  EXPECT_FALSE(is_refused());
}

// Protects those who name a file where a folder is meant: it stays.
TEST_F(StateMalformed, IsWrittenIntoAFolder) {
  const std::string file = folder + "/file";
  write_bytes(file, "bytes");
  expect_error({file + "/step-12: cannot be removed", "Not a directory"}, [&] { StateFolder(file).write(state, {}); });
  const std::string lost = folder + "/lost";
  fs::create_symlink("nowhere", lost);
  expect_error({lost + "/step-12: cannot be made"}, [&] { StateFolder(lost).write(state, {}); });
  EXPECT_EQ(bytes_of(file), "bytes");
}

TEST_F(StateMalformed, NamesTheWrongField) {
  struct Wrong {
    const char* place;    // a JSON pointer into the right manifest
    const char* value;    // what stands there instead; null: nothing
    const char* message;  // part of the error
  };
  const Wrong cases[] = {
      {"/format", nullptr, "key 'format' not found"},
      {"/format", "0", "has format 0, where 2 is the newest known"},
      {"/format", "3", "has format 3"},
      {"/format", "2", "its bytes are not those that were written"},
      {"/format", "1.5", "\"format\" is number 1.5, where a count is expected"},
      {"/format", "\"1\"", "\"format\" is string"},
      {"/format", "-1", "\"format\" is number -1"},
      {"/step", nullptr, "key 'step' not found"},
      {"/step", "11", "is of step 11"},
      {"/step", "12.5", "\"step\" is number 12.5, where a count is expected"},
      {"/step", "-12", "\"step\" is number -12"},
      {"/step", "1e300", "\"step\" is number 1e+300"},
      {"/step", "18446744073709551615", "\"step\" is 18446744073709551615"},
      {"/step", "\"12\"", "\"step\" is string"},
      {"/step", "[12]", "\"step\" is array"},
      {"/loss", nullptr, "key 'loss' not found"},
      {"/must", nullptr, "key 'must' not found"},
      {"/must", "[]", "must be object"},
      {"/must", "7", "must be object"},
      {"/must/data", "7", "must be string"},
      {"/may", nullptr, "key 'may' not found"},
      {"/may", "\"x\"", "must be object"},
      {"/may/processor", "null", "must be string"},
      {"/frozen", nullptr, "key 'frozen' not found"},
      {"/frozen", "{}", "must be string"},
      {"/files", nullptr, "key 'files' not found"},
      {"/files/model.safetensors", "7", "cannot use at() with number"},
      {"/files/model.safetensors/bytes", nullptr, "key 'bytes' not found"},
      {"/files/model.safetensors/bytes", "8", "has 7 bytes, 8 were written"},
      {"/files/model.safetensors/bytes", "7.5", "\"bytes\" is number 7.5, where a count is expected"},
      {"/files/model.safetensors/bytes", "-7", "\"bytes\" is number -7"},
      {"/files/model.safetensors/bytes", "18446744073709551615", "has 7 bytes, 18446744073709551615 were written"},
      {"/files/model.safetensors/xxh3_128", nullptr, "key 'xxh3_128' not found"},
      {"/files/model.safetensors/xxh3_128", "\"\"", "its bytes are not those that were written"},
      {"/files/model.safetensors/xxh3_128", "7", "must be string"},
      {"/files/absent", R"({"bytes": 7, "xxh3_128": ""})", "absent: cannot be opened"},
      {"/files/..", R"({"bytes": 7, "xxh3_128": ""})", "names a file \"..\"; only files beside it"},
      {"/files/", R"({"bytes": 7, "xxh3_128": ""})", "names a file \"\""},
      {"/files/~1etc~1passwd", R"({"bytes": 7, "xxh3_128": ""})", "names a file \"/etc/passwd\""},
      {"/files/a~1b", R"({"bytes": 7, "xxh3_128": ""})", "names a file \"a/b\""},
      {"/files/.hidden", R"({"bytes": 7, "xxh3_128": ""})", "names a file \".hidden\""},
  };
  const auto right = first_format();
  for (const Wrong& wrong : cases) {
    SCOPED_TRACE(wrong.message);
    auto json = right;
    const nlohmann::ordered_json::json_pointer at(wrong.place);
    if (wrong.value)
      json[at] = nlohmann::ordered_json::parse(wrong.value);
    else
      json.at(at.parent_pointer()).erase(at.back());
    write_bytes(manifest, json.dump());
    expect_error({place, wrong.message}, [&] { read(); });
  }
}

TEST_F(StateMalformed, IsJson) {
  const std::string deep(100'000, '['), right = first_format().dump();
  const std::pair<std::string, std::string_view> cases[] = {
      {"", "parse error"},
      {"[]", "cannot use at() with array"},
      {"null", "cannot use at() with null"},
      {"7", "cannot use at() with number"},
      {right + "x", "parse error"},
      {right + right, "parse error"},
      {std::string("\0", 1) + right, "parse error"},
      {right.substr(0, right.size() - 1), "parse error"},
      {"{\"format\": 1, \"x\": " + deep, "parse error"},
      {deep, "parse error"},
      {"{\"format\": " + deep + std::string(100'000, ']') + "}", "\"format\" is array, where a count is expected"},
      {"{\"format\": \"" + std::string(100'000, 'x') + "\"}", "\"format\" is string"},
      {"{\"format\": \"\xFF\"}", "ill-formed UTF-8"},
      {std::string((1 << 20) + 1, ' '), "has 1048577 bytes, above the limit"},
  };
  for (const auto& [bytes, rule] : cases) {
    SCOPED_TRACE(rule);
    write_bytes(manifest, bytes);
    const std::string message = remat_test::error_of([&] { read(); });
    EXPECT_NE(message.find(rule), std::string::npos) << message;
    EXPECT_LT(message.size(), 600U);
  }
  fs::remove(manifest);
  expect_error({place, "has no manifest.json"}, [&] { read(); });
}

TEST_F(StateMalformed, EveryBeginningIsRefused) {
  for (const char* const name : {"manifest.json", "model.safetensors", "rest.safetensors"}) {
    const std::string path = place + "/" + name, whole = bytes_of(path);
    for (std::size_t length = 0; length < whole.size(); ++length) {
      write_bytes(path, whole.substr(0, length));
      EXPECT_TRUE(is_refused()) << name << " cut to " << length;
    }
    write_bytes(path, whole);
  }
}

// Without a hash of the manifest itself a changed loss would keep another state as the best.
TEST_F(StateMalformed, EveryChangedByteIsRefused) {
  std::mt19937 random(1);
  for (const char* const name : {"manifest.json", "model.safetensors", "rest.safetensors"}) {
    const std::string path = place + "/" + name, whole = bytes_of(path);
    for (std::size_t at = 0; at < whole.size(); ++at) {
      std::string bytes = whole;
      bytes[at] ^= static_cast<char>(1 << random() % 8);
      write_bytes(path, bytes);
      EXPECT_TRUE(is_refused()) << name << " byte " << at;
    }
    for (int i = 0; i < 300; ++i) {
      std::string bytes = whole;
      for (int flips = 0; flips < 3; ++flips) bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
      write_bytes(path, bytes);
      EXPECT_EQ(is_refused(), bytes != whole);
    }
    write_bytes(path, whole);
    EXPECT_FALSE(is_refused());
  }
}

}  // namespace
