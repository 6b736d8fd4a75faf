// What all backends of a program must do alike.
#pragma once

#include <gtest/gtest.h>

#include <remat/kernels/gemm.hpp>
#include <string>

namespace remat_test {

/// Calls `run()` with each backend of this program in turn as the one of all products of floats, up to a fatal failure.
template <class F>
void with_each_backend(F&& run) {
  const remat::kernels::GemmChoice before = remat::kernels::gemm_choice();
  for (const remat::kernels::Backend backend : remat::kernels::backends) {
    SCOPED_TRACE(std::string(name_of(backend)));
    set_gemm_choice(remat::kernels::GemmChoice(backend));
    run();
    if (testing::Test::HasFatalFailure()) break;
  }
  set_gemm_choice(before);
}

}  // namespace remat_test
