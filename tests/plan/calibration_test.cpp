// The rates of this machine.
#include <gtest/gtest.h>

#include <remat/plan/calibration.hpp>

namespace {

using namespace remat;

// Protects plans from rates of another kind: products cannot be faster than registers, attention is much like them.
TEST(Calibration, MeasuresWhatTheMachineCanDo) {
  const CostModel model = CostModel::measured();
  EXPECT_GT(model.flops_per_second, 1e8);
  EXPECT_LT(model.flops_per_second, 3e9 * machine::peak_fma_gflops(machine::threads()));  // the machine is shared
  EXPECT_GT(model.bytes_per_second, 1e7);
  EXPECT_GT(model.batched_factor, 0.1);
  EXPECT_LT(model.batched_factor, 20);
  EXPECT_GT(model.offload_bytes_per_second, 1e5);
  EXPECT_LT(model.offload_bytes_per_second, 1e12);
}

}  // namespace
