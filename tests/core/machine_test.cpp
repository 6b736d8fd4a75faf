#include <gtest/gtest.h>
#include <omp.h>

#include <cstdlib>
#include <memory>
#include <remat/core/machine.hpp>
#include <string>

namespace {

namespace machine = remat::machine;

TEST(Machine, DescribesItself) {
  EXPECT_FALSE(machine::isa().empty());
  EXPECT_FALSE(machine::compiled_isa().empty());
  EXPECT_NE(machine::affinity().find("CPU"), std::string::npos);
  EXPECT_EQ(machine::threads(), omp_get_max_threads());
  std::cout << "CPU " << machine::isa() << ", compiled for " << machine::compiled_isa() << ", " << machine::affinity()
            << '\n';
}

// Protects the start table: it says what the environment says, and what it means when that is nothing.
TEST(Machine, SaysHowThreadsWait) {
  struct Variable {
    const char* name;
    std::string before = std::getenv(name) != nullptr ? std::getenv(name) : "";
    ~Variable() { before.empty() ? ::unsetenv(name) : ::setenv(name, before.c_str(), 1); }
  };
  const Variable policy{"OMP_WAIT_POLICY"}, spins{"GOMP_SPINCOUNT"};
  ::unsetenv(spins.name);
  ::setenv(policy.name, "passive", 1);
  EXPECT_EQ(machine::wait_policy(), "passive");
  ::setenv(spins.name, "300", 1);
  EXPECT_EQ(machine::wait_policy(), "passive, GOMP_SPINCOUNT 300");
  ::unsetenv(policy.name);
  EXPECT_EQ(machine::wait_policy(), "not set, GOMP_SPINCOUNT 300");
  ::unsetenv(spins.name);
  EXPECT_NE(machine::wait_policy().find("they spin"), std::string::npos);
}

TEST(Machine, ResidentBytesGrowWithTouchedMemory) {
  const std::size_t before = machine::resident_bytes();
  constexpr std::size_t size = std::size_t{64} << 20;
  const auto memory = std::make_unique<char[]>(size);
  volatile char* const touched = memory.get();  // volatile: else the allocation may be optimized away
  for (std::size_t i = 0; i < size; i += 4096) touched[i] = 1;
  EXPECT_GT(machine::resident_bytes(), before + size / 4 * 3);
}

// Protects the unit: GFLOP/s of one core, not flops or MFLOP/s.
TEST(Machine, PeakIsInGigaflops) {
  const double one = machine::peak_fma_gflops(1);
  EXPECT_GT(one, 0.1);  // unoptimized builds spill every register
  EXPECT_LT(one, 2000);
}

}  // namespace
