// Which backend makes which products: fixed by hand, or measured once on a machine.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <remat/kernels/gemm.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using namespace remat_test;
using kernels::Backend;
using kernels::backends;
using kernels::GemmChoice;
using kernels::Trans;

TEST(GemmChoice, IsReadAsItIsWritten) {
  GemmChoice choice;
  EXPECT_EQ(choice.text(), "own");
  EXPECT_EQ(GemmChoice::parse("own"), choice);
  const Backend last = backends.back();
  choice[GemmChoice::class_of({.a = Trans::yes, .m = 512, .n = 512, .k = 512})] = last;
  choice[GemmChoice::class_of({.b = Trans::yes, .m = 8, .n = 8, .k = 8})] = last;
  if (backends.size() > 1) {
    EXPECT_EQ(choice.text(), "own,tn:" + std::string(name_of(last)) + ",small-nt:" + std::string(name_of(last)));
  }
  EXPECT_EQ(GemmChoice::parse(choice.text()), choice);
  EXPECT_EQ(GemmChoice::parse("tn:" + std::string(name_of(last)) + ",own"), GemmChoice()) << "the later rules";
}

TEST(GemmChoice, RefusesWhatThereIsNot) {
  expect_error({"matrix products: 'mkl' in 'own,tn:mkl' is no backend of this program, which has own"},
               [] { GemmChoice::parse("own,tn:mkl"); });
  expect_error({"'nx' in 'own,nx:own' is no class of products: write nn, nt,"},
               [] { GemmChoice::parse("own,nx:own"); });
  expect_error({"no backend is named"}, [] { GemmChoice::parse(""); });
}

TEST(GemmChoice, RulesByClass) {
  GemmChoice choice;
  for (std::size_t i = 0; i < GemmChoice::classes; ++i) {
    const kernels::Gemm shape{
        .a = Trans((i & 2U) != 0), .b = Trans((i & 1U) != 0), .m = i < 4 ? 4096 : 16, .n = 256, .k = 256};
    EXPECT_EQ(GemmChoice::class_of(shape), i);
    EXPECT_EQ(GemmChoice::parse("own," + GemmChoice::class_name(i) + ":own")[i], choice.of(shape));
  }
}

// Protects the promise of equal bits from run to run: what was measured is kept, and what another process put there
// meanwhile is taken; a damaged file is measured anew.
TEST(GemmChoice, IsMeasuredOnceAndReadAgain) {
  const std::filesystem::path folder = testing::TempDir() + "remat_choice_" + std::to_string(::getpid());
  std::filesystem::remove_all(folder);
  const GemmChoice first = kernels::detail::cached_choice(folder);
  const std::filesystem::path file = std::filesystem::directory_iterator(folder)->path();
  std::string machine, text;
  const auto write = [&](const std::string& line) { std::ofstream(file) << machine << '\n' << line << '\n'; };
  {
    std::ifstream in(file);
    ASSERT_TRUE(std::getline(in, machine) && std::getline(in, text));
  }
  EXPECT_EQ(GemmChoice::parse(text), first);
  GemmChoice other(backends.back());
  write(other.text());
  EXPECT_EQ(kernels::detail::cached_choice(folder), other);
  for (const char* damaged : {"", "nobody", "own,"}) {
    write(damaged);
    kernels::detail::cached_choice(folder);
    std::ifstream in(file);
    ASSERT_TRUE(std::getline(in, machine) && std::getline(in, text));
    EXPECT_NO_THROW(GemmChoice::parse(text));
    EXPECT_FALSE(text.empty());
  }
  machine = "another machine";
  write(other.text());
  EXPECT_NO_THROW(kernels::detail::cached_choice(folder));
  std::filesystem::remove_all(folder);
  EXPECT_NO_THROW(kernels::detail::cached_choice("/proc/remat"));
}

TEST(GemmChoice, IsTold) {
  const GemmChoice before = kernels::gemm_choice();
  kernels::set_gemm_choice(GemmChoice());
  EXPECT_STREQ(kernels::gemm_backend(), "own");
  GemmChoice some;
  some[1] = backends.back();
  kernels::set_gemm_choice(some);
  EXPECT_EQ(kernels::gemm_choice(), some);
  if (backends.size() > 1) {
    EXPECT_EQ(kernels::gemm_backend(), "own; nt " + version_of(backends.back()));
  }
  kernels::set_gemm_choice(before);
}

}  // namespace
