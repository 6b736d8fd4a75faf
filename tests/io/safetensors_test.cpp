// Weight files: what we write, byte for byte, and what we read back.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <core/expect_error.hpp>
#include <csignal>
#include <filesystem>
#include <limits>
#include <remat/core/eigen.hpp>
#include <remat/io.hpp>

#include "io/weight_file.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::WeightFile;

struct Model {
  explicit Model(std::uint64_t seed = 1) : parameters(seed) {
    const Scope root = parameters / "m";
    (root / "wide").parameter<double>("w", {2, 3}, init::normal(1));
    (root / "plain").parameter<float>("w", {3, 5}, init::normal(1));
    (root / "plain").parameter<float>("b", {5}, init::normal(1));
    (root / "half").parameter<bfloat16>("w", {3}, init::normal(1));
    (root / "none").parameter<float>("w", {0, 4}, init::normal(1));
    (root / "scalar").parameter<float>("w", {}, init::normal(1));
    for (const char* layer : {"layer_0", "layer_1"})
      ((root / layer) / "attention").shared_as("a").parameter<float>("w", {2, 2}, init::normal(1));
  }
  ParameterRegistry parameters;
};

bool same_values(const ParameterRegistry& a, const ParameterRegistry& b) {
  const auto left = a.entries(), right = b.entries();
  if (left.size() != right.size()) return false;
  for (std::size_t i = 0; i < left.size(); ++i)
    if (left[i]->path != right[i]->path || left[i]->value.bytes() != right[i]->value.bytes() ||
        std::memcmp(left[i]->value.data(), right[i]->value.data(), left[i]->value.bytes()) != 0)
      return false;
  return true;
}

using Safetensors = WeightFile;

// Protects weights: every type, rank 0 and size 0 included, comes back with its bits, NaN and -0 among them.
TEST_F(Safetensors, RoundTrip) {
  Model saved(1), loaded(2);
  auto special = saved.parameters.at<float>("m/plain/b").value().copy();
  special.write()[0] = std::numeric_limits<float>::quiet_NaN();
  special.write()[1] = -0.0F;
  special.write()[2] = std::numeric_limits<float>::denorm_min();
  saved.parameters.at<float>("m/plain/b").set_value(special);
  EXPECT_FALSE(same_values(saved.parameters, loaded.parameters));
  io::save_safetensors(saved.parameters, path);
  io::load_safetensors(loaded.parameters, path);
  EXPECT_TRUE(same_values(saved.parameters, loaded.parameters));
  const std::string first = bytes();
  io::save_safetensors(loaded.parameters, path);
  EXPECT_EQ(bytes(), first);
}

// Protects other programs that read our files: the exact bytes of a small one.
TEST_F(Safetensors, WritesTheseBytes) {
  ParameterRegistry parameters;
  (parameters / "l").parameter<float>("w", {1, 2}, init::ones());
  (parameters / "l").parameter<double>("x", {}, init::zeros());
  io::save_safetensors(parameters, path, {{"format", "pt"}});
  std::string header = R"({"__metadata__":{"format":"pt"},"l/x":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
                       R"("l/w":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(bytes(), with_length(header) + std::string(8, '\0') + std::string("\0\0\x80\x3F\0\0\x80\x3F", 8));
  io::save_safetensors(ParameterRegistry(), path);
  EXPECT_EQ(bytes(), with_length("{}      "));
  EXPECT_TRUE(io::SafetensorsFile(path).names().empty());
}

// Protects alignment in other readers, whatever the length of the header.
TEST_F(Safetensors, PadsTheHeader) {
  for (std::size_t length = 1; length < 20; ++length) {
    ParameterRegistry parameters;
    (parameters / std::string(length, 'x')).parameter<float>("w", {1}, init::ones());
    io::save_safetensors(parameters, path);
    EXPECT_EQ(bytes().size() % 8, 4U);
    EXPECT_EQ(bytes().size() - 4 - 8, static_cast<unsigned char>(bytes()[0]));
  }
}

// Protects sharing: a shared weight is stored once, and the file tells who uses it.
TEST_F(Safetensors, StoresSharedWeightsOnceWithAliases) {
  Model model;
  io::save_safetensors(model.parameters, path, {{"step", "7"}});
  const io::SafetensorsFile file(path);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"m/half/w", "m/none/w", "m/plain/b", "m/plain/w", "m/scalar/w",
                                                    "m/wide/w", "shared/a/w"}));
  EXPECT_EQ(file.metadata(),
            (std::map<std::string, std::string>{
                {"m/layer_0/attention/w", "shared/a/w"}, {"m/layer_1/attention/w", "shared/a/w"}, {"step", "7"}}));
  expect_error({path, "m/layer_0/attention/w", "alias"}, [&] {
    io::save_safetensors(model.parameters, path, {{"m/layer_0/attention/w", "mine"}});
  });
}

// Protects reading one tensor from a file, with errors that help.
TEST_F(Safetensors, ReadsSingleTensors) {
  Model model;
  io::save_safetensors(model.parameters, path);
  const io::SafetensorsFile file(path);
  EXPECT_EQ(file.info("m/plain/w").dtype, "F32");
  EXPECT_EQ(file.info("m/plain/w").shape, (Shape{3, 5}));
  EXPECT_TRUE(same_bits(file.read<float>("m/plain/w"), model.parameters.at<float>("m/plain/w").value()));
  EXPECT_TRUE(same_bits(file.read<double>("m/wide/w"), model.parameters.at<double>("m/wide/w").value()));
  EXPECT_EQ(file.read<float>("m/none/w").shape(), (Shape{0, 4}));
  expect_error({path, "m/plain/w", "F32", "F64"}, [&] { file.read<double>("m/plain/w"); });
  expect_error({path, "m/plain/v", "m/plain/w"}, [&] { file.read<float>("m/plain/v"); });
}

// Protects checkpoints of 16 bits, which most published ones are: read as the type that is computed in, whole or by
// pieces, whatever the type in the file.
TEST_F(Safetensors, ConvertsFloatingTypes) {
  constexpr Index size = 40000;  // more than is converted at once
  const auto file_of = [&](const std::string& type, auto narrow) {
    std::string data;
    for (Index i = 0; i < size; ++i) {
      const auto element = narrow(static_cast<float>(i % 2001 - 1000) / 8);
      data.append(reinterpret_cast<const char*>(&element), sizeof element);
    }
    const std::string end = std::to_string(data.size());
    set_bytes(with_length(R"({"w":{"dtype":")" + type + R"(","shape":[200,200],"data_offsets":[0,)" + end + "]}}") +
              data);
    return io::SafetensorsFile(path);
  };
  const auto check = [&](const io::SafetensorsFile& file) {
    SCOPED_TRACE(file.info("w").dtype);
    const auto floats = file.read_as<float>("w");
    const auto doubles = file.read_as<double>("w");
    const auto halves = file.read_as<bfloat16>("w");
    EXPECT_EQ(floats.shape(), (Shape{200, 200}));
    for (Index i = 0; i < size; ++i) {
      float value = static_cast<float>(i % 2001 - 1000) / 8;
      if (file.info("w").dtype == "BF16") value = widen(narrow(value));
      ASSERT_EQ(floats[i], value) << i;
      ASSERT_EQ(doubles[i], value) << i;
      ASSERT_EQ(static_cast<float>(halves[i]), widen(narrow(value))) << i;
    }
    std::vector<float> some(20000);
    file.read_into("w", std::span(some), 17);
    EXPECT_EQ(std::memcmp(some.data(), floats.data() + 17, some.size() * sizeof(float)), 0);
    expect_error({path, "\"w\" has 40000 elements", "20000 from element 20001"},
                 [&] { file.read_into("w", std::span(some), 20001); });
  };
  check(file_of("F16", [](float value) { return kernels::narrow_half(value); }));
  check(file_of("BF16", [](float value) { return narrow(value); }));
  check(file_of("F32", [](float value) { return value; }));
  check(file_of("F64", [](float value) { return static_cast<double>(value); }));
  const auto integers = file_of("I32", [](float value) { return static_cast<std::int32_t>(value); });
  expect_error({path, "\"w\" holds I32", "F16"}, [&] { integers.read_as<float>("w"); });
}

// Protects loops over a file opened in their head: what a temporary returns is no reference into it.
static_assert(!std::is_reference_v<decltype(std::declval<io::SafetensorsFile>().tensors())>);
static_assert(!std::is_reference_v<decltype(std::declval<io::SafetensorsFile>().metadata())>);
static_assert(!std::is_reference_v<decltype(std::declval<io::SafetensorsFile>().info(""))>);
static_assert(!std::is_reference_v<decltype(std::declval<io::SafetensorsFile>().path())>);

// Protects the values in memory: whatever is wrong with the file, a load that throws has changed none.
TEST_F(Safetensors, AFailedLoadChangesNothing) {
  Model saved(1);
  io::save_safetensors(saved.parameters, path);
  const auto refuses = [&](std::initializer_list<std::string_view> parts, ParameterRegistry& parameters) {
    std::vector<std::string> before, after;
    const auto contents = [&] {
      std::vector<std::string> all;
      for (const auto& e : parameters.entries())
        all.emplace_back(reinterpret_cast<const char*>(e->value.data()), e->value.bytes());
      return all;
    };
    before = contents();
    expect_error({path}, [&] { io::load_safetensors(parameters, path); });
    expect_error(parts, [&] { io::load_safetensors(parameters, path); });
    EXPECT_EQ(contents(), before);
  };
  Model more(2);
  (more.parameters / "zzz").parameter<float>("w", {1}, init::ones());
  refuses({"no tensor", "zzz/w"}, more.parameters);
  ParameterRegistry fewer(2);
  (fewer / "m" / "plain").parameter<float>("w", {3, 5}, init::zeros());
  refuses({"holds \"m/half/w\"", "no parameter", "nearest", "m/plain/w"}, fewer);
  ParameterRegistry shape(2), type(2);
  (shape / "m" / "plain").parameter<float>("w", {5, 3}, init::zeros());
  refuses({"m/plain/w", "F32[3, 5]", "F32[5, 3]"}, shape);
  (type / "m" / "plain").parameter<double>("w", {3, 5}, init::zeros());
  refuses({"m/plain/w", "F32[3, 5]", "F64[3, 5]"}, type);
}

// Protects a value that a recorded step still reads: loading replaces it, its bytes stay.
TEST_F(Safetensors, LoadingLeavesOldBytesAlone) {
  Model saved(1), loaded(2);
  io::save_safetensors(saved.parameters, path);
  const auto recorded = loaded.parameters.at<float>("m/plain/w").value();
  const auto copy = recorded.copy();
  io::load_safetensors(loaded.parameters, path);
  EXPECT_TRUE(same_bits(recorded, copy));
}

// Protects the last good file: when the disk fills up, it stays, and no half-written one is left beside it.
TEST_F(Safetensors, AFailedSaveKeepsTheOldFile) {
  Model model;
  io::save_safetensors(model.parameters, path);
  const std::string before = bytes();
  ParameterRegistry big;
  (big / "l").parameter<float>("w", {100000}, init::zeros());
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string text = remat_test::error_of([&] { io::save_safetensors(big, path); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(text.find("cannot be written"), std::string::npos) << text;
  EXPECT_NE(text.find(path), std::string::npos) << text;
  EXPECT_EQ(bytes(), before);
  const std::string folder = std::filesystem::path(path).parent_path();
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  expect_error({"/no/such/folder/x", "No such file"},
               [&] { io::save_safetensors(model.parameters, "/no/such/folder/x"); });
  expect_error({"not valid UTF-8"}, [&] { io::save_safetensors(model.parameters, path, {{"a", "\xFF"}}); });
  EXPECT_EQ(bytes(), before);
}

// Protects callers who make tensors late: what comes must be what the header, written before, says of it.
TEST_F(Safetensors, WritesWhatWasSaid) {
  const auto one = [] { return Tensor<float>({2}, 1.0F).any(); };
  set_bytes("old");
  expect_error({path, "two tensors are called \"w\""}, [&] {
    io::save_safetensors({{"w", DType::float32, {2}, one}, {"w", DType::float32, {2}, one}}, path);
  });
  expect_error({path, "\"w\" is float32[2], not float32[3] as was said"}, [&] {
    io::save_safetensors({{"w", DType::float32, {3}, one}}, path);
  });
  expect_error({path, "\"w\" is float32[2], not float64[2] as was said"}, [&] {
    io::save_safetensors({{"w", DType::float64, {2}, one}}, path);
  });
  EXPECT_EQ(bytes(), "old");
}

// Protects matrices that stay in their file, and those who ask for a type that we have none of.
// Each byte is written as six: no reader takes a header of more than 100 MB.
TEST_F(Safetensors, WritesNoHeaderThatNobodyReads) {
  const std::string text(17'000'000, '\x01');
  expect_error({path, "the header has 102000032 bytes, above the limit 100000000"}, [&] {
    io::save_safetensors(std::vector<io::SafetensorsOutput>{}, path, {{"text", text}});
  });
}

TEST_F(Safetensors, RefusesWhatItCannotGive) {
  const std::string header =
      R"({"d":{"dtype":"F64","shape":[1,1],"data_offsets":[0,8]},"m":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]},)"
      R"("v":{"dtype":"F32","shape":[1],"data_offsets":[16,20]},"s":{"dtype":"I16","shape":[2],"data_offsets":[20,24]}})";
  const std::string whole = with_length(header) + std::string(24, '\0');
  set_bytes(whole);
  const io::SafetensorsFile file(path);
  expect_error({path, "\"s\" holds I16", "no tensor here can hold"}, [&] { (void)file.read("s"); });
  expect_error({path, "\"v\" has shape [1]", "a matrix is needed"}, [&] { (void)file.matrix("v"); });
  expect_error({path, "\"d\" holds F64", "load the others as numbers"}, [&] { (void)file.matrix("d"); });
  ParameterRegistry parameters;
  const auto m = (parameters / "x").without_values().parameter<float>("m", {1, 2}, init::zeros());
  m.entry()->keep_as(file.matrix("m"), false);
  io::save_safetensors(parameters, path);
  expect_error({path, "x/m is read as it is stored", "cannot be written to"},
               [&] { io::load_safetensors(parameters, path); });
  set_bytes(whole);
  const io::SafetensorsFile cut(path);
  std::filesystem::resize_file(path, whole.size() - 9);
  expect_error({path, "has changed since it was opened"}, [&] { (void)cut.matrix("m"); });
}

// Protects against names that are no files: no hang on a pipe, no read of a folder.
TEST_F(Safetensors, RefusesWhatIsNoFile) {
  expect_error({path, "No such file"}, [&] { io::SafetensorsFile{path}; });
  expect_error({"not a regular file"}, [&] { io::SafetensorsFile{testing::TempDir()}; });
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  expect_error({path, "not a regular file"}, [&] { io::SafetensorsFile{path}; });
}

// Protects logs: appended, one line each, complete when write returns, numbers that JSON lacks as null.
TEST_F(Safetensors, JsonLinesAppends) {
  {
    io::JsonLines log(path);
    log.write({{"step", 1}, {"loss", 2.5}, {"bad", std::numeric_limits<double>::quiet_NaN()}});
    EXPECT_EQ(bytes(), "{\"step\":1,\"loss\":2.5,\"bad\":null}\n");
    log.write({{"text", "a\nb\xFF"}});
  }
  io::JsonLines(path).write({{"step", 2}});
  EXPECT_EQ(bytes(), "{\"step\":1,\"loss\":2.5,\"bad\":null}\n{\"text\":\"a\\nb\xEF\xBF\xBD\"}\n{\"step\":2}\n");
  set_bytes("{\"step\":1}\n{\"st");  // a run was killed here
  io::JsonLines(path).write({{"step", 2}});
  EXPECT_EQ(bytes(), "{\"step\":1}\n{\"st\n{\"step\":2}\n");
  expect_error({"/no/such/folder/log"}, [] { io::JsonLines("/no/such/folder/log"); });
}

// Protects logs of runs that are resumed: each step has one line, of the run that went on from there.
TEST_F(Safetensors, JsonLinesGoOnBeforeAStep) {
  const std::string before = "{\"step\":1}\n{\"step\":2,\"x\":3}\n", behind = "{\"step\":3}\n{\"step\":4}\n";
  set_bytes(before + "{\"note\":1}\n[2]\n" + behind + "{\"st");
  io::JsonLines::before(path, "step", 3).write({{"step", 3}, {"new", true}});
  EXPECT_EQ(bytes(), before + "{\"step\":3,\"new\":true}\n");
  io::JsonLines::before(path, "step", 0);  // begins anew
  EXPECT_EQ(bytes(), "");
}

}  // namespace
