// Weight files come from strangers: each broken rule is one Error that names the file, and nothing crashes.
#include <core/expect_error.hpp>
#include <random>
#include <remat/io/safetensors.hpp>
#include <utility>
#include <vector>

#include "io/weight_file.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

class Malformed : public remat_test::WeightFile {
 protected:
  void refuses(const std::string& bytes, std::string_view rule) {
    set_bytes(bytes);
    SCOPED_TRACE(bytes.substr(0, 200));
    expect_error({path, rule}, [&] { io::SafetensorsFile{path}; });
  }
  /// Reads all that can be read; the bytes of data so found.
  std::size_t read_all() const {
    const io::SafetensorsFile file(path);
    std::size_t total = 0;
    for (const auto& [name, info] : file.tensors()) {
      total += info.end - info.begin;
      if (info.dtype == "F32") {
        EXPECT_EQ(file.read<float>(name).any().bytes(), info.end - info.begin);
      } else if (info.dtype == "U8") {
        EXPECT_EQ(file.read<std::uint8_t>(name).any().bytes(), info.end - info.begin);
      }
    }
    return total;
  }
};

// Protects the process: the rules of the format one by one, each broken once.
TEST_F(Malformed, HeadersAreRefused) {
  const std::string deep(100000, '[');
  const std::pair<std::string, std::string_view> cases[] = {
      {"", "begin with '{'"},
      {"  ", "begin with '{'"},
      {"\v{}", "begin with '{'"},
      {"[]", "begin with '{'"},
      {"\xEF\xBB\xBF{}", "begin with '{'"},
      {"{", "not valid JSON"},
      {"{}x", "not valid JSON"},
      {"{}{}", "not valid JSON"},
      {std::string("{}\0", 3), "NUL"},
      {std::string("{\"a\0\":1}", 9), "NUL"},
      {R"({"a")", "not valid JSON"},
      {R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},})", "not valid JSON"},
      {"{\"a\xFF\":{}}", "not valid JSON"},
      {R"({"\ud800":{}})", "not valid JSON"},
      {"{/* */}", "not valid JSON"},
      {R"({"a":null})", "null"},
      {R"({"a":true})", "boolean"},
      {R"({"a":1})", "number"},
      {R"({"a":"x"})", "string"},
      {R"({"a":[]})", "array"},
      {R"({"a":{}})", "lacks one of"},
      {R"({"a":{"dtype":"U8","shape":[1]}})", "lacks one of"},
      {R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", "lacks one of"},
      {R"({"a":{"shape":[1],"data_offsets":[0,1]}})", "lacks one of"},
      {R"({"a":["U8",[1],[0,1]]})", "array"},
      {R"({"a":{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}})", "lacks one of"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1e400}})", "not valid JSON"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[}})", "not valid JSON"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "twice"},
      {R"({"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", "twice"},
      {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       "twice"},
      {R"({"a":{"dtype":"U9","shape":[1],"data_offsets":[0,1]}})", "unknown dtype \"U9\""},
      {R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,1]}})", "unknown dtype"},
      {R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", "number"},
      {R"({"a":{"dtype":{},"shape":[1],"data_offsets":[0,1]}})", "object"},
      {R"({"a":{"dtype":["U8"],"shape":[1],"data_offsets":[0,1]}})", "array"},
      {R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", "number"},
      {R"({"a":{"dtype":"U8","shape":"1","data_offsets":[0,1]}})", "string"},
      {R"({"a":{"dtype":"U8","shape":{"0":1},"data_offsets":[0,1]}})", "object"},
      {R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "negative"},
      {R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", "no 64-bit integer"},
      {R"({"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}})", "no 64-bit integer"},
      {R"({"a":{"dtype":"U8","shape":[1e400],"data_offsets":[0,1]}})", "not valid JSON"},
      {R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", "string"},
      {R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", "array"},
      {R"({"a":{"dtype":"U8","shape":[null],"data_offsets":[0,1]}})", "null"},
      {R"({"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}})", "not valid JSON"},
      {R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]}})", "63 bits"},
      {R"({"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,1]}})", "no 64-bit integer"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]}})", "overflows"},
      {R"({"a":{"dtype":"F64","shape":[9223372036854775807],"data_offsets":[0,1]}})", "overflows"},
      {R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", "too many numbers"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", "instead of 2"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[]}})", "instead of 2"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", "too many numbers"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", "data_offsets [1, 0)"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "1 bytes of data"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,9223372036854775807]}})", "1 bytes of"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})", "needs 2"},
      {R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,1]}})", "needs 4"},
      {R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", "no whole bytes"},
      {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})", "no hole"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       "do not overlap"},
      {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "the file at 1"},
      {"{}", "the file at 1"},
      {R"({"__metadata__":1})", "number"},
      {R"({"__metadata__":null,"__metadata__":{}})", "twice"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{}})", "twice"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}})", "negative"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1.0]}})", "no 64-bit integer"},
      {R"({"a":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}})", "object"},
      {R"({"__metadata__":["a"]})", "array"},
      {R"({"__metadata__":{"a":1}})", "number"},
      {R"({"__metadata__":{"a":null}})", "null"},
      {R"({"__metadata__":{"a":{}}})", "object"},
      {R"({"__metadata__":{"a":"x","a":"y"}})", "twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", "twice"},
      {"{\"a\":" + deep, "array"},
      {R"({"a":{"dtype":"U8","shape":)" + deep, "array"},
  };
  for (const auto& [header, rule] : cases) refuses(with_length(header) + "x", rule);
}

// Protects memory: lengths that lie are refused before anything of that length is allocated.
TEST_F(Malformed, LengthsAreRefused) {
  const auto length = [](std::uint64_t n) { return std::string(reinterpret_cast<const char*>(&n), 8); };
  refuses("", "has 0 bytes");
  refuses("1234567", "has 7 bytes");
  refuses(length(0), "begin with '{'");
  refuses(length(3) + "{}", "only 2 bytes follow");
  refuses(length(100'000'001) + "{}", "limit");
  refuses(length(std::uint64_t{1} << 63) + "{}", "limit");
  refuses(length(~std::uint64_t{0}) + "{}", "limit");
  refuses(with_length("{}") + "x", "the file at 1");
}

// Protects what is allowed: padding, any order, gaps of zero size, unaligned data, types we cannot compute with.
TEST_F(Malformed, OddButLegalFilesAreRead) {
  set_bytes(with_length(R"({"z":{"shape":[2],"data_offsets":[1,3],"dtype":"U8"},"e":{"dtype":"F64","shape":[0,9],)"
                        R"("data_offsets":[1,1]},"a":{"dtype":"F8_E4M3","shape":[],"data_offsets":[0,1]},)"
                        R"("":{"dtype":"F4","shape":[2,1],"data_offsets":[3,4]},"__metadata__":{"":"\u00e9"}})"
                        "  \n ") +
            "abcd");
  const io::SafetensorsFile file(path);
  EXPECT_EQ(file.read<std::uint8_t>("z")[1], 'c');
  EXPECT_EQ(file.read<double>("e").shape(), (Shape{0, 9}));
  EXPECT_EQ(file.metadata().at(""), "é");
  expect_error({path, "F4", "F32"}, [&] { file.read<float>(""); });
  // Unaligned floats are copied, not cast.
  set_bytes(with_length(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("f":{"dtype":"F32","shape":[],"data_offsets":[1,5]}})") +
            std::string("x\0\0\x80\x3F", 5));
  EXPECT_EQ(io::SafetensorsFile(path).read<float>("f").item(), 1.0F);
}

// Protects files of other writers: what the format's own reader (the crate safetensors 0.8) takes and means the same to
// every reader is taken, each line with the one byte of data.
TEST_F(Malformed, WhatTheReferenceReadsIsRead) {
  const std::string tensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})", a = R"("a":)" + tensor;
  const auto with = [](const std::string& fields) {
    return R"({"a":{)" + fields + R"("dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  };
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  const std::vector<std::string> headers = {
      "{" + a + "}",
      " \t\r\n{" + a + "}",
      "{" + a + "} \t\r\n",
      "{ \"a\" : " + tensor + " }",
      R"({"__metadata__":null,)" + a + "}",
      "{" + a + R"(,"__metadata__":null})",
      R"({"__metadata__":{},)" + a + "}",
      with(R"("x":1,)"),
      with(R"("x":-1.5e3,)"),
      with(R"("x":null,"y":true,"":"z",)"),
      with(R"("x":1,"x":2,)"),
      with(R"("x":{},"y":[],)"),
      with(R"("x":{"dtype":"F32","shape":[[9],{"data_offsets":1}]},)"),
      with(R"("x":[[{"y":[1,"a",null,false,-1,0.5,{}]}]],)"),
      with(R"("x":)" + deep + ","),
      R"({"a":{"dtyp\u0065":"U\u0038","shape":[1],"data_offsets":[0,1],"after":[{}]}})",
      R"({"\u0061":)" + tensor + "}",
      R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})",
      R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})",
      "{" + a + R"(,"e":{"dtype":"F32","shape":[0],"data_offsets":[1,1]}})",
      R"({"e":{"dtype":"F32","shape":[0,9223372036854775807,9223372036854775807],"data_offsets":[0,0]},)" + a + "}"};
  for (const std::string& header : headers) {
    SCOPED_TRACE(header.substr(0, 200));
    set_bytes(with_length(header) + "x");
    const io::SafetensorsFile file(path);
    EXPECT_EQ(file.read<std::uint8_t>("a").any().bytes(), 1U);
    EXPECT_TRUE(file.metadata().empty());
  }
  for (const char* empty : {"{}", " {} ", R"({"__metadata__":null})"}) {
    set_bytes(with_length(empty));
    EXPECT_TRUE(io::SafetensorsFile(path).names().empty());
  }
}

// Protects error texts: a name of a megabyte does not become an error of a megabyte.
TEST_F(Malformed, ErrorsStayShort) {
  set_bytes(with_length("{\"" + std::string(1 << 20, 'x') + "\":1}"));
  EXPECT_LT(remat_test::error_of([&] { io::SafetensorsFile{path}; }).size(), 1000U);
}

std::string sample() {
  const std::string header =
      R"({"__metadata__":{"format":"pt","a/w":"shared/w"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"U8","shape":[5],"data_offsets":[24,29]},"n":{"dtype":"F32","shape":[0],"data_offsets":[29,29]}})";
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + "abcdefghijklmnopqrstuvwxyzABC";
}

// Protects against interrupted copies: cut at any byte, the file is refused.
TEST_F(Malformed, EveryTruncationIsRefused) {
  const std::string whole = sample();
  set_bytes(whole);
  EXPECT_EQ(read_all(), 29U);
  for (std::size_t length = 0; length < whole.size(); ++length) refuses(whole.substr(0, length), "");
}

// Protects against rot: after any flip the file is refused or holds as many bytes as before; nothing crashes.
TEST_F(Malformed, BitFlipsAreRefusedOrHarmless) {
  const std::string whole = sample();
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole;
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    set_bytes(bytes);
    try {
      ASSERT_EQ(read_all(), 29U);
    } catch (const Error& error) {
      ++refused;
      ASSERT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(refused, 1000);
}

// Protects a reader whose file is cut behind its back: an Error, not a short tensor.
TEST_F(Malformed, AFileThatShrinksIsNoticed) {
  set_bytes(sample());
  const io::SafetensorsFile file(path);
  std::filesystem::resize_file(path, sample().size() - 20);
  expect_error({path, "cut while being read"}, [&] { file.read<float>("w"); });
}

}  // namespace
