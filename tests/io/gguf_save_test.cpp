// GGUF files that we write, read back: by us here, and by the reference when this was made.
#include <gtest/gtest.h>

#include <cmath>
#include <core/expect_error.hpp>
#include <cstdint>
#include <limits>
#include <map>
#include <remat/core/eigen.hpp>
#include <remat/io/gguf.hpp>
#include <remat/io/gguf_save.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "io/weight_file.hpp"

namespace {

using namespace remat;
using io::BlockFormat;
using remat_test::expect_error;

class GgufSave : public remat_test::WeightFile {
 protected:
  const std::string golden = REMAT_SOURCE_DIR "/tests/golden/gguf_blocks.gguf";
};

Tensor<float> ramp(const Shape& shape) {
  std::vector<float> values;
  for (Index i = 0; i < shape.size(); ++i) values.push_back(static_cast<float>(i % 201 - 100) / 16);
  return {shape, std::span<const float>(values)};
}

// Protects what we write: every type of value and every format that can be written, read back.
TEST_F(GgufSave, RoundTrip) {
  const auto matrix = ramp({7, 64}), cube = ramp({2, 3, 32}), vector = ramp({5}), scalar = ramp({});
  const Tensor<double> doubles({2}, {0.1, -2.5});
  Tensor<bfloat16> halves({3}, bfloat16(1.5F));
  const std::vector<std::string> texts{"a", "", std::string("\0\n", 2)};
  io::save_gguf({{"matrix", matrix, BlockFormat::q8_0},
                 {"vector", vector},
                 {"cube", cube, BlockFormat::f16},
                 {"scalar", scalar, BlockFormat::bf16},
                 {"doubles", doubles},
                 {"halves", halves, BlockFormat::bf16},
                 {"none", Tensor<float>(Shape{0, 32}), BlockFormat::q8_0}},
                path,
                {{"general.architecture", "llama"},
                 {"a.bool", true},
                 {"a.u8", std::uint8_t{200}},
                 {"a.i8", std::int8_t{-1}},
                 {"a.u16", std::uint16_t{60000}},
                 {"a.i16", std::int16_t{-2}},
                 {"a.u32", std::uint32_t{4000000000}},
                 {"a.i32", -3},
                 {"a.u64", std::numeric_limits<std::uint64_t>::max()},
                 {"a.i64", std::int64_t{-4}},
                 {"a.float", 0.1F},
                 {"a.double", 0.1},
                 {"a.texts", texts},
                 {"a.bools", std::vector{true, false}},
                 {"a.floats", std::vector{1.5F, 2.5F}},
                 {"a.nothing", std::vector<std::uint64_t>{}}});
  const io::GgufFile file(path);
  EXPECT_EQ(file.get<std::string>("general.architecture"), "llama");
  EXPECT_EQ(file.get<int>("general.quantization_version"), 2);
  EXPECT_TRUE(file.get<bool>("a.bool"));
  EXPECT_EQ(file.find("a.u8")->type(), io::GgufType::uint8);
  EXPECT_EQ(file.get<int>("a.u8"), 200);
  EXPECT_EQ(file.get<int>("a.i8"), -1);
  EXPECT_EQ(file.get<int>("a.u16"), 60000);
  EXPECT_EQ(file.get<int>("a.i16"), -2);
  EXPECT_EQ(file.get<Index>("a.u32"), 4000000000);
  EXPECT_EQ(file.get<int>("a.i32"), -3);
  EXPECT_EQ(file.get<std::uint64_t>("a.u64"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(file.get<int>("a.i64"), -4);
  EXPECT_EQ(file.get<float>("a.float"), 0.1F);
  EXPECT_EQ(file.get<double>("a.double"), 0.1);
  EXPECT_EQ(file.get<std::vector<std::string>>("a.texts"), texts);
  EXPECT_EQ(file.get<std::vector<bool>>("a.bools"), (std::vector{true, false}));
  EXPECT_EQ(file.get<std::vector<float>>("a.floats"), (std::vector{1.5F, 2.5F}));
  EXPECT_TRUE(file.get<std::vector<Index>>("a.nothing").empty());
  ASSERT_EQ(file.tensors().size(), 7U);
  EXPECT_EQ(file.tensors()[2].name, "cube");
  for (const auto& tensor : file.tensors()) EXPECT_EQ(tensor.offset % 32, 0U);
  EXPECT_EQ(bytes().size() % 32, 0U);
  EXPECT_TRUE(same_bits(file.read<float>("vector"), vector));
  EXPECT_TRUE(same_bits(file.read<float>("cube"), cube));
  EXPECT_TRUE(same_bits(file.read<float>("scalar"), scalar));
  EXPECT_TRUE(same_bits(file.read<bfloat16>("halves"), halves));
  EXPECT_EQ(file.read<float>("doubles")[0], 0.1F);
  EXPECT_EQ(file.read<float>("none").shape(), (Shape{0, 32}));
  const auto rounded = file.read<float>("matrix");
  for (Index i = 0; i < matrix.size(); ++i) EXPECT_NEAR(rounded[i], matrix[i], 6.25 / 127 / 2 + 0.01);
}

// Protects exports of what was loaded: metadata and tensors of another file are taken over byte for byte, in any
// format; the result is the same from then on.
TEST_F(GgufSave, CopiesFromAnotherFile) {
  const io::GgufFile file(golden);
  const auto copy = [this](const io::GgufFile& from) {
    std::map<std::string, io::GgufContent> metadata;
    for (const auto& [key, value] : from.metadata()) metadata.emplace(key, value);
    metadata["general.alignment"] = std::uint32_t{64};
    std::vector<io::GgufOutput> tensors;
    for (const io::GgufTensor& tensor : from.tensors()) tensors.emplace_back(tensor);
    io::save_gguf(tensors, path, metadata);
  };
  copy(file);
  const std::string first = bytes();
  const io::GgufFile written(path);
  ASSERT_EQ(written.tensors().size(), file.tensors().size());
  for (std::size_t i = 0; i < file.tensors().size(); ++i) {
    const io::GgufTensor &a = file.tensors()[i], &b = written.tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.shape, b.shape);
    EXPECT_EQ(a.type.code, b.type.code);
    EXPECT_EQ(b.offset % 64, 0U);
    EXPECT_TRUE(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end()));
  }
  for (const auto& [key, value] : file.metadata()) {
    ASSERT_NE(written.find(key), nullptr) << key;
    EXPECT_EQ(written.find(key)->type(), value.type());
    EXPECT_TRUE(std::equal(value.bytes().begin(), value.bytes().end(), written.find(key)->bytes().begin(),
                           written.find(key)->bytes().end()))
        << key;
  }
  copy(written);  // over the file that is read: its mapping keeps the old bytes
  EXPECT_EQ(bytes(), first);
}

// Protects other programs and later runs: what they would refuse, or what would silently become infinite, is refused.
TEST_F(GgufSave, RefusesToWrite) {
  const auto one = ramp({1}), rows = ramp({2, 33});
  const auto refuses = [&](std::initializer_list<std::string_view> parts, const io::GgufOutput& output,
                           std::map<std::string, io::GgufContent> metadata = {}) {
    set_bytes("old");
    expect_error({path}, [&] { io::save_gguf({output}, path, metadata); });
    expect_error(parts, [&] { io::save_gguf({output}, path, metadata); });
    EXPECT_EQ(bytes(), "old");
  };
  refuses({"\"w\"", "33", "whole blocks of Q8_0"}, {"w", rows, BlockFormat::q8_0});
  refuses({"\"w\"", "Q4_K", "only read"}, {"w", ramp({256}), BlockFormat::q4_k});
  refuses({"\"w\"", "int32"}, {"w", Tensor<std::int32_t>({1}, 1)});
  refuses({"a name of 64 bytes", "63"}, {std::string(64, 'w'), one});
  refuses({"a name of 0 bytes"}, {"", one});
  refuses({"\"w\"", "[1, 1, 1, 1, 1]", "4 axes"}, {"w", ramp({1, 1, 1, 1, 1})});
  refuses({"\"w\"", "element 2 is 70000", "as F16 would be inf", "F32"},
          {"w", Tensor<float>({3}, {1, 2, 70000}), BlockFormat::f16});
  Tensor<float> broken({64}, 1.0F);
  broken.write()[40] = std::numeric_limits<float>::quiet_NaN();
  refuses({"\"w\"", "element 32 is 1", "as Q8_0 would be nan"}, {"w", broken, BlockFormat::q8_0});
  refuses({"key has 0 bytes"}, {"w", one}, {{"", true}});
  refuses({"general.alignment", "24", "power of two"}, {"w", one}, {{"general.alignment", std::uint32_t{24}}});
  refuses({"general.alignment", "int32", "uint32"}, {"w", one}, {{"general.alignment", 32}});
  refuses({"general.alignment", "1048576", "65536"}, {"w", one}, {{"general.alignment", std::uint32_t{1} << 20}});
  refuses({"\"w\"", "of shape [1], not [2] as was said"}, {"w", Shape{2}, [&] { return one.any(); }});
  refuses({"\"w\"", "holds int32"}, {"w", Shape{1}, [] { return Tensor<std::int32_t>({1}, 1).any(); }});
  refuses({"\"w\"", "has no bytes", "plan mode"}, {"w", AnyTensor{DType::float32, Shape{1}, {}, 0}});
  const io::GgufFile other(golden);
  io::GgufTensor cut = other.tensors().front();
  cut.bytes = cut.bytes.first(cut.bytes.size() - 1);
  refuses({cut.name, std::to_string(cut.bytes.size()) + " bytes, but", "needs"}, io::GgufOutput(cut));
  set_bytes("old");
  expect_error({path, "\"w\"", "given twice"}, [&] { io::save_gguf({{"w", one}, {"w", one}}, path); });
  EXPECT_EQ(bytes(), "old");
  io::save_gguf({{"w", broken, BlockFormat::f16}}, path);  // a NaN may be one
  EXPECT_TRUE(std::isnan(io::GgufFile(path).read<float>("w")[40]));
  io::save_gguf({}, path);
  const io::GgufFile empty(path);
  EXPECT_TRUE(empty.tensors().empty());
  io::save_gguf({{"w", one}}, path);
  expect_error({path, "\"w\" has shape [1]", "a matrix is needed"}, [&] { (void)io::GgufFile(path).matrix("w"); });
}

}  // namespace
