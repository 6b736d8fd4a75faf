// GGUF files: what other programs write, and what we write, read back.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <core/expect_error.hpp>
#include <cstring>
#include <limits>
#include <optional>
#include <remat/core/eigen.hpp>
#include <remat/io/gguf.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "io/weight_file.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using Texts = std::vector<std::string_view>;

class Gguf : public remat_test::WeightFile {
 protected:
  const std::string golden = REMAT_SOURCE_DIR "/tests/golden/gguf_blocks.gguf";
};

// Protects metadata of every type, as the reference's writer writes it.
TEST_F(Gguf, ReadsEveryTypeOfValue) {
  const io::GgufFile file(golden);
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(file.get<std::string_view>("general.architecture"), "none");
  EXPECT_EQ(file.get<std::uint8_t>("value.uint8"), 255);
  EXPECT_EQ(file.get<std::int8_t>("value.int8"), -128);
  EXPECT_EQ(file.get<std::uint16_t>("value.uint16"), 65535);
  EXPECT_EQ(file.get<std::int16_t>("value.int16"), -32768);
  EXPECT_EQ(file.get<std::uint32_t>("value.uint32"), 4294967295U);
  EXPECT_EQ(file.get<std::int32_t>("value.int32"), std::numeric_limits<std::int32_t>::min());
  EXPECT_EQ(file.get<std::uint64_t>("value.uint64"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(file.get<std::int64_t>("value.int64"), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(file.get<float>("value.float32"), 1e-5F);
  EXPECT_EQ(file.get<double>("value.float64"), 1e-5);
  EXPECT_TRUE(file.get<bool>("value.bool"));
  EXPECT_EQ(file.get<std::string>("value.string"), "größer");
  EXPECT_EQ(file.get<Texts>("array.string"), (Texts{"a", "", "<0x0A>", "Ġthe"}));
  EXPECT_EQ(file.get<std::vector<int>>("array.int32"), (std::vector{3, -1, 2}));
  EXPECT_EQ(file.get<std::vector<float>>("array.float32"), (std::vector{0.5F, -1.25F}));
  EXPECT_EQ(file.get<std::vector<bool>>("array.bool"), (std::vector{true, false}));
  const auto rows = file.get<std::vector<io::GgufValue>>("array.array");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].as<std::vector<int>>(), (std::vector{1, 2}));
  EXPECT_EQ(rows[1].as<std::vector<int>>(), (std::vector{3}));
  EXPECT_EQ(file.metadata().front().key, "general.architecture");
}

// Protects programs that ask: numbers of another width are given where they fit, all else is told with both types.
TEST_F(Gguf, ConvertsWhatFitsAndRefusesTheRest) {
  const io::GgufFile file(golden);
  EXPECT_EQ(file.get<Index>("value.uint32"), 4294967295);
  EXPECT_EQ(file.get<double>("value.uint8"), 255.0);
  EXPECT_EQ(file.get<float>("value.float64"), 1e-5F);
  EXPECT_EQ(file.get<std::vector<Index>>("array.int32"), (std::vector<Index>{3, -1, 2}));
  EXPECT_EQ(file.get("no.such.key", 10000.0F), 10000.0F);
  EXPECT_EQ(file.get("value.int8", 7), -128);
  EXPECT_EQ(file.find("no.such.key"), nullptr);
  expect_error({golden, "value.uint32", "4294967295", "2147483647"}, [&] { file.get<int>("value.uint32"); });
  expect_error({golden, "value.int8", "-128", "0 to 255"}, [&] { file.get<std::uint8_t>("value.int8"); });
  expect_error({"value.float32", "float32", "whole number"}, [&] { file.get<int>("value.float32"); });
  expect_error({"value.string", "string", "not a number"}, [&] { file.get<float>("value.string"); });
  expect_error({"value.uint8", "uint8", "not text"}, [&] { file.get<std::string_view>("value.uint8"); });
  expect_error({"value.uint8", "uint8", "not a bool"}, [&] { file.get<bool>("value.uint8"); });
  expect_error({"value.uint8", "uint8", "not an array"}, [&] { file.get<std::vector<int>>("value.uint8"); });
  expect_error({"array.string", "string[4]", "not text"}, [&] { file.get<std::string_view>("array.string"); });
  expect_error({"array.int32", "int32[3]", "not a number"}, [&] { file.get<int>("array.int32"); });
  expect_error({"array.string", "not a number"}, [&] { file.get<std::vector<int>>("array.string"); });
  expect_error({"value.string", "string", "not a number"}, [&] { file.get("value.string", 7); });
  expect_error({golden, "no metadata \"value.uint31\"", "nearest", "value.uint3"},
               [&] { file.get<int>("value.uint31"); });
}

// Protects tensors: axes in our order, decoded to each floating type, as a whole and by pieces.
TEST_F(Gguf, ReadsTensors) {
  const io::GgufFile file(golden);
  for (const char* name : {"F16", "BF16", "Q8_0", "Q4_1", "Q6_K"}) {
    SCOPED_TRACE(name);
    const std::string stored = std::string(name) + ".stored", twin = std::string(name) + ".values";
    const auto values = file.read<float>(twin);
    EXPECT_EQ(file.at(stored).type.name, name);
    EXPECT_EQ(values.shape(), file.at(stored).shape);
    EXPECT_EQ(values.shape().front(), 2);
    EXPECT_TRUE(same_bits(file.read<float>(stored), values));
    const auto doubles = file.read<double>(stored);
    const auto halves = file.read<bfloat16>(stored);
    for (Index i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i])) continue;
      ASSERT_EQ(doubles[i], static_cast<double>(values[i]));
      ASSERT_EQ(static_cast<float>(halves[i]), static_cast<float>(static_cast<bfloat16>(values[i])));
    }
    const Index row = values.size() / 2;
    std::vector<float> second(static_cast<std::size_t>(row));
    file.read_into(stored, std::span(second), row);
    EXPECT_EQ(std::memcmp(second.data(), values.data() + row, second.size() * sizeof(float)), 0);
  }
  const auto tensor = file.at("Q4_K.stored");
  EXPECT_EQ(tensor.bytes.data(), file.mapping()->bytes().data() + tensor.offset);
  EXPECT_EQ(file.find_tensor("Q4_K"), nullptr);
  std::vector<float> some(31), many(4096);
  expect_error({golden, "Q8_0.stored", "blocks of 32", "31"}, [&] { file.read_into("Q8_0.stored", std::span(some)); });
  expect_error({golden, "Q8_0.stored", "blocks of 32", "element 16"},
               [&] { file.read_into("Q8_0.stored", std::span(many).first(32), 16); });
  expect_error({golden, "Q8_0.stored", "has 2048 elements", "4096"},
               [&] { file.read_into("Q8_0.stored", std::span(many)); });
  expect_error({golden, "has 2048 elements", "-32"}, [&] { file.read_into("Q8_0.stored", std::span(many), -32); });
  expect_error({golden, "no tensor \"Q4_K.store\"", "nearest", "Q4_K.stored"}, [&] { file.read<float>("Q4_K.store"); });
}

// Protects views: they live as long as a copy of the file, and none is taken of a file that closes at once.
TEST_F(Gguf, ViewsLiveWithTheMapping) {
  std::optional<io::GgufFile> file(golden);
  const io::GgufFile copy = *file;
  file.reset();
  EXPECT_EQ(copy.get<std::string_view>("value.string"), "größer");
  const auto mapping = copy.mapping();
  EXPECT_EQ(mapping->path(), golden);
}
template <class T>
concept GivesViews = requires(T file) {
  std::forward<T>(file).metadata();
  std::forward<T>(file).tensors();
  std::forward<T>(file).at("");
  std::forward<T>(file).find("");
  std::forward<T>(file).find_tensor("");
  std::forward<T>(file).template get<std::string_view>("");
};
static_assert(GivesViews<io::GgufFile&> && GivesViews<const io::GgufFile&>);
template <class T>
concept GivesSomeView = requires(T file) {
  std::forward<T>(file).metadata();
}
|| requires(T file) { std::forward<T>(file).tensors(); }
|| requires(T file) { std::forward<T>(file).at(""); }
|| requires(T file) { std::forward<T>(file).find(""); }
|| requires(T file) { std::forward<T>(file).template get<std::string_view>(""); };
static_assert(!GivesSomeView<io::GgufFile&&>);

// Protects against names that are no files: no hang on a pipe, no read of a folder.
TEST_F(Gguf, RefusesWhatIsNoFile) {
  expect_error({path, "No such file"}, [&] { io::GgufFile{path}; });
  expect_error({"not a regular file"}, [&] { io::GgufFile{testing::TempDir()}; });
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  expect_error({path, "not a regular file"}, [&] { io::GgufFile{path}; });
  // Longer than any process has addresses for.
  const int descriptor = memfd_create("long", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(descriptor, off_t{1} << 60), 0);
  expect_error({"/proc/self/fd/", "1152921504606846976 bytes cannot be mapped"},
               [&] { io::GgufFile{"/proc/self/fd/" + std::to_string(descriptor)}; });
  close(descriptor);
}

}  // namespace
