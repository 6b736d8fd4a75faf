// GGUF files come from strangers: each broken rule is one Error that names the thing, and nothing crashes.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <remat/io/gguf.hpp>
#include <string>
#include <vector>

#include "io/weight_file.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

template <class T>
std::string number(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string u32(std::uint32_t value) { return number(value); }
std::string u64(std::uint64_t value) { return number(value); }
std::string text(const std::string& characters) { return u64(characters.size()) + characters; }
std::string array(std::uint32_t type, std::uint64_t count, const std::string& elements) {
  return u32(9) + u32(type) + u64(count) + elements;
}

constexpr std::uint32_t type_u8 = 0, type_u32 = 4, type_bool = 7, type_string = 8, type_array = 9, type_u64 = 10;
constexpr std::uint64_t huge = std::uint64_t{1} << 62;

struct Stored {
  std::string name;
  std::vector<std::uint64_t> axes;  // in the file's order
  std::uint32_t type;
  std::uint64_t offset;
};

/// A small valid file in parts, which a test changes.
struct Image {
  std::string magic = "GGUF", version = u32(3), tensor_count{}, entry_count{};
  std::vector<std::string> entries{text("general.architecture") + u32(type_string) + text("llama"),
                                   text("a.flag") + u32(type_bool) + number(std::uint8_t{1}),
                                   text("a.tokens") + array(type_string, 2, text("x") + text("yz")),
                                   text("a.rows") + array(type_array, 1, u32(type_u8) + u64(2) + "ab")};
  std::vector<Stored> tensors{{"norm", {3}, 0, 0}, {"weight", {32, 2}, 8, 32}};
  std::uint64_t alignment = 32;
  std::string data = std::string(32 + 68, '\0');

  Image& add(const std::string& entry) { return entries.push_back(entry), *this; }
  std::string bytes() const {
    std::string all = magic + version;
    all += tensor_count.empty() ? u64(tensors.size()) : tensor_count;
    all += entry_count.empty() ? u64(entries.size()) : entry_count;
    for (const std::string& entry : entries) all += entry;
    for (const Stored& tensor : tensors) {
      all += text(tensor.name) + u32(static_cast<std::uint32_t>(tensor.axes.size()));
      for (const std::uint64_t length : tensor.axes) all += u64(length);
      all += u32(tensor.type) + u64(tensor.offset);
    }
    if (!data.empty()) all.resize((all.size() + alignment - 1) / alignment * alignment, '\0');
    return all + data;
  }
};

/// All that can be read of a file with these bytes, which end where memory ends. The number of elements.
Index read_all(const std::string& bytes) {
  const std::unique_ptr<std::byte[]> exact(new std::byte[bytes.size()]);
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  const io::GgufHeader header = io::parse_gguf({exact.get(), bytes.size()});
  Index elements = 0;
  std::vector<float> values;
  for (const io::GgufTensor& tensor : header.tensors) {
    if (!tensor.type.format) continue;
    values.resize(static_cast<std::size_t>(tensor.shape.size()));
    kernels::decode_blocks(*tensor.type.format, tensor.bytes.data(), 0, tensor.shape.size(), values.data());
    elements += tensor.shape.size();
  }
  for (const io::GgufEntry& entry : header.metadata) {
    if (entry.value.type() != io::GgufType::array) continue;
    if (entry.value.element_type() == io::GgufType::string)
      entry.value.as<std::vector<std::string_view>>();
    else
      entry.value.as<std::vector<io::GgufValue>>();
  }
  return elements;
}

class GgufMalformed : public remat_test::WeightFile {};

// Protects the process: the rules of the format one by one, each broken once.
TEST_F(GgufMalformed, FilesAreRefused) {
  using Change = std::function<void(Image&)>;
  const auto entry = [](const std::string& bytes) -> Change { return [=](Image& image) { image.add(bytes); }; };
  const auto alignment = [&](const std::string& value) { return entry(text("general.alignment") + value); };
  const auto tensor = [](std::vector<std::uint64_t> axes, std::uint32_t type, std::uint64_t offset) -> Change {
    return [=](Image& image) { image.tensors[1] = {"weight", axes, type, offset}; };
  };
  const auto value = [&](const std::string& bytes) { return entry(text("k") + bytes); };
  std::string deep = u32(9);
  for (int i = 0; i < 1000; ++i) deep += u32(type_array) + u64(1);
  std::string deeper = u32(9);
  for (int i = 0; i < 4; ++i) deeper += u32(type_array) + u64(1);
  deeper += u32(type_u8) + u64(0);

  const std::pair<Change, std::string_view> cases[] = {
      {[](Image& i) { i.magic = "GGUf"; }, "does not begin with the bytes \"GGUF\""},
      {[](Image& i) { i.magic = "FUGG"; }, "does not begin with"},
      {[](Image& i) { i.magic = "ggml"; }, "does not begin with"},
      {[](Image& i) { i.magic = std::string(4, '\0'); }, "does not begin with"},
      {[](Image& i) { i.version = u32(0); }, "is of version 0 of GGUF; versions 2 and 3"},
      {[](Image& i) { i.version = u32(1); }, "is of version 1 of GGUF; versions 2 and 3"},
      {[](Image& i) { i.version = u32(4); }, "is of version 4"},
      {[](Image& i) { i.version = u32(0xffffffff); }, "is of version 4294967295"},
      {[](Image& i) { i.version = u32(3U << 24); }, "is a big-endian file"},
      {[](Image& i) { i.version = u32(2U << 24); }, "is a big-endian file"},
      // Counts.
      {[](Image& i) { i.tensor_count = u64(1000); }, "has 1000 tensors by its count, but the"},
      {[](Image& i) { i.tensor_count = u64(~std::uint64_t{0}); }, "has 18446744073709551615 tensors"},
      {[](Image& i) { i.tensor_count = u64(huge); }, "have room for"},
      {[](Image& i) { i.entry_count = u64(1000); }, "has 1000 entries of metadata by its count"},
      {[](Image& i) { i.entry_count = u64(~std::uint64_t{0}); }, "have room for"},
      {[](Image& i) { i.entry_count = u64(huge); }, "have room for"},
      {[](Image& i) { i.entry_count = u64(5); }, "tensor 1: has a text of"},  // a tensor is read as an entry
      {[](Image& i) { i.entry_count = u64(3); }, "tensor \"a.rows\": has 9 axes"},
      {[](Image& i) { i.tensor_count = u64(3); }, "but the data has 68 bytes"},
      // Keys.
      {entry(u64(huge) + "k"), "metadata 4: has a text of 4611686018427387904 bytes"},
      {entry(u64(~std::uint64_t{0}) + "k"), "metadata 4: has a text of 18446744073709551615 bytes"},
      {entry(text("") + u32(type_u8) + "x"), "has a key of 0 bytes; GGUF has keys of 1 to 65535"},
      {entry(text(std::string(65536, 'k')) + u32(type_u8) + "x"), "has a key of 65536 bytes"},
      {entry(text("a.flag") + u32(type_u8) + "x"), "the metadata key \"a.flag\" twice"},
      {entry(text("general.architecture") + u32(type_string) + text("bert")), "\"general.architecture\" twice"},
      // Values.
      {value(u32(13) + u64(0)), "metadata \"k\": has a value of type 13"},
      {value(u32(0xffffffff) + u64(0)), "has a value of type 4294967295"},
      {value(u32(type_bool) + "\2"), "metadata \"k\": has a bool of 2"},
      {value(u32(type_bool) + "\xff"), "has a bool of 255"},
      {value(u32(type_string) + u64(huge)), "metadata \"k\": has a text of 4611686018427387904 bytes"},
      {value(u32(type_string) + u64(~std::uint64_t{0} - 7)), "metadata \"k\": has a text of 18446744073709551608"},
      {value(array(13, 0, "")), "metadata \"k\": has a value of type 13"},
      {value(array(type_bool, 3, std::string("\0\1\2", 3))), "has a bool of 2"},
      {value(array(type_u8, huge, "")), "has an array of 4611686018427387904 elements of type uint8"},
      {value(array(type_u64, huge, "")), "elements of type uint64"},
      {value(array(type_u64, std::uint64_t{1} << 61, "")), "has an array of 2305843009213693952 elements"},
      {value(array(type_string, huge, "")), "elements of type string"},
      {value(array(type_array, huge, "")), "elements of type array"},
      {value(array(type_u32, 1000, "")), "has an array of 1000 elements of type uint32"},
      {value(array(type_string, 2, text("x") + u64(huge))), "metadata \"k\": has a text of"},
      {value(array(type_array, 1, u32(99) + u64(0))), "has a value of type 99"},
      {value(array(type_array, 1, u32(type_u8) + u64(huge))), "has an array of 4611686018427387904"},
      {value(deep), "metadata \"k\": has arrays in arrays more than 4 deep"},
      {value(deeper), "more than 4 deep"},
      // Alignment.
      {alignment(u32(type_u32) + u32(0)), "\"general.alignment\": is 0, no power of two"},
      {alignment(u32(type_u32) + u32(24)), "\"general.alignment\": is 24, no power of two"},
      {alignment(u32(type_u32) + u32(0xffffffff)), "is 4294967295, no power of two"},
      {alignment(u32(type_u64) + u64(32)), "is uint64, where the format wants uint32"},
      {alignment(u32(type_u8) + " "), "is uint8, where the format wants uint32"},
      {alignment(u32(type_string) + text("32")), "is string, where the format wants uint32"},
      {alignment(array(type_u32, 1, u32(32))), "is uint32[1], where the format wants uint32"},
      {alignment(u32(type_u32) + u32(64)), "\"weight\": has the offset 32, no multiple of the alignment 64"},
      {alignment(u32(type_u32) + u32(1U << 31)), "but the data has 0 bytes"},
      // Tensors.
      {[](Image& i) { i.tensors[1].name = "norm"; }, "has a tensor \"norm\" twice"},
      {tensor({32, 2}, 4, 32), "\"weight\": is of type 4, which is unknown or was taken out"},
      {tensor({32, 2}, 5, 32), "is of type 5"},
      {tensor({32, 2}, 31, 32), "is of type 31"},
      {tensor({32, 2}, 42, 32), "is of type 42"},
      {tensor({32, 2}, 0xffffffff, 32), "is of type 4294967295"},
      {tensor({1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 32), "\"weight\": has 9 axes; at most 8"},
      {tensor({std::uint64_t{1} << 63}, 0, 32), "\"weight\": has an axis of 9223372036854775808"},
      {tensor({~std::uint64_t{0}}, 0, 32), "has an axis of 18446744073709551615"},
      {tensor({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, 32), "\"weight\": its size: "},
      {tensor({huge}, 0, 32), "overflows 64 bits"},
      {tensor({huge, 2}, 24, 32), "overflows 64 bits"},
      {tensor({std::uint64_t{1} << 61}, 28, 32), "overflows 64 bits"},
      {tensor({std::uint64_t{1} << 62}, 8, 32), "but the data has 100 bytes"},
      {tensor({std::uint64_t{1} << 60}, 0, 32), "has 4611686018427387904 bytes at offset 32"},
      {tensor({33, 2}, 8, 32), "\"weight\": has rows of 33 elements, which are no whole blocks of Q8_0, of 32"},
      {tensor({16, 4}, 8, 32), "has rows of 16 elements"},
      {tensor({32, 2}, 12, 32), "has rows of 32 elements, which are no whole blocks of Q4_K, of 256"},
      {tensor({}, 8, 32), "has rows of 1 elements"},
      {tensor({32, 2}, 8, 33), "\"weight\": has the offset 33, no multiple of the alignment 32"},
      {tensor({32, 2}, 8, ~std::uint64_t{0}), "has the offset 18446744073709551615"},
      {tensor({32, 2}, 8, ~std::uint64_t{0} - 31), "bytes at offset 18446744073709551584 of the data"},
      {tensor({32, 2}, 8, 64), "\"weight\": has 68 bytes at offset 64 of the data, but the data has 100 bytes"},
      {tensor({32, 3}, 8, 32), "\"weight\": has 102 bytes at offset 32"},
      {tensor({0}, 0, 128), "has 0 bytes at offset 128"},
      {tensor({32, 2}, 8, 0), "\"norm\" and \"weight\" overlap: one ends at byte"},
      {tensor({3}, 0, 0), "\"norm\" and \"weight\" overlap"},
      {[](Image& i) { i.tensors[0].axes = {9}; }, "\"norm\" and \"weight\" overlap"},
      {[](Image& i) { i.data.clear(); }, "but the data has 0 bytes"},
      {[](Image& i) { i.data.pop_back(); }, "has 68 bytes at offset 32 of the data, but the data has 99 bytes"},
  };
  EXPECT_EQ(read_all(Image().bytes()), 67);
  for (const auto& [change, rule] : cases) {
    SCOPED_TRACE(rule);
    Image image;
    change(image);
    set_bytes(image.bytes());
    expect_error({path, rule}, [&] { io::GgufFile{path}; });
    expect_error({rule}, [&] { read_all(image.bytes()); });
  }
}

// Protects the reader of an error: names as long as a file, or with control characters, do not fill the screen.
TEST_F(GgufMalformed, NamesFromFilesAreShownShort) {
  Image image;
  image.tensors[1].name = std::string(100000, 'w') + "\n";
  image.tensors[1].type = 99;
  const std::string message = remat_test::error_of([&] { read_all(image.bytes()); });
  EXPECT_LT(message.size(), 250U);
  EXPECT_NE(message.find("www...\""), std::string::npos) << message;
  image.tensors[1].name = "a\x1b[2Jb\n";
  expect_error({"\"a?[2Jb?\""}, [&] { read_all(image.bytes()); });
}

// Protects what is allowed: version 2, odd alignments, gaps, any order of bytes, tensors we cannot decode.
TEST_F(GgufMalformed, OddButLegalFilesAreRead) {
  Image image;
  image.version = u32(2);
  EXPECT_EQ(read_all(image.bytes()), 67);
  image.tensors = {
      {"b", {32, 2}, 8, 64}, {"a", {3}, 0, 0}, {"i", {5}, 26, 32}, {"", {7, 0}, 0, 128}, {"s", {}, 0, 160}};
  image.data.resize(164);
  EXPECT_EQ(read_all(image.bytes()), 64 + 3 + 0 + 1);
  set_bytes(image.bytes());
  const io::GgufFile file(path);
  EXPECT_EQ(file.read<float>("s").shape(), Shape{});
  EXPECT_EQ(file.at("i").bytes.size(), 20U);
  expect_error({path, "\"i\" is stored as I32", "not decoded"}, [&] { file.read<float>("i"); });
  for (const std::uint32_t alignment : {1U, 2U, 8U, 128U, 4096U}) {
    Image other;
    other.alignment = alignment;
    other.add(text("general.alignment") + u32(type_u32) + u32(alignment));
    other.tensors[1].offset = std::max<std::uint64_t>(alignment, 16);
    other.data.resize(other.tensors[1].offset + 68);
    EXPECT_EQ(read_all(other.bytes()), 67) << alignment;
  }
  Image empty;
  empty.tensors.clear();
  empty.data.clear();
  EXPECT_EQ(read_all(empty.bytes()), 0);
  empty.entries.clear();
  EXPECT_EQ(read_all(empty.bytes()), 0);
  EXPECT_EQ(read_all(Image().add(text("k") + array(type_array, 0, "")).bytes()), 67);
}

// Protects against files that were cut: every beginning of a valid one is refused.
TEST_F(GgufMalformed, EveryPrefixIsRefused) {
  const std::string whole = Image().bytes();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    SCOPED_TRACE(length);
    EXPECT_THROW(read_all(whole.substr(0, length)), Error);
  }
  set_bytes("");
  expect_error({path, "has 0 bytes; a GGUF file has at least 24"}, [&] { io::GgufFile{path}; });
  set_bytes(whole.substr(0, whole.size() - 1));
  expect_error({path, "\"weight\"", "68 bytes", "99 bytes"}, [&] { io::GgufFile{path}; });
}

// Protects the process from what nobody thought of: bytes changed at random are an Error or a file that can be read.
TEST_F(GgufMalformed, RandomBytesDoNoHarm) {
  const std::string whole = Image().bytes();
  std::mt19937 random(1);
  int read = 0;
  for (int round = 0; round < 10000; ++round) {
    std::string bytes = whole;
    for (auto changes = 1 + random() % 3; changes > 0; --changes) {
      const auto how = random() % 3;
      char& byte = bytes[random() % (whole.size() - 100)];  // what the tables say; the data may be anything
      byte = how == 0 ? static_cast<char>(random()) : how == 1 ? '\xff' : static_cast<char>(byte ^ (1 << random() % 8));
    }
    try {
      read_all(bytes);
      ++read;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(read, 100);
  EXPECT_LT(read, 9000);
}

}  // namespace
