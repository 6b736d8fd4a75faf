// Must not compile: the regions return nothing, and the compiler says so in a plain sentence.
#include <remat/ops/blockwise.hpp>

void regions_that_return_nothing([[maybe_unused]] remat::Tape& tape, [[maybe_unused]] const remat::Var<float>& x) {
#if REMAT_VOID_IN == 1
  tape.checkpoint(remat::policy::nothing, [&] {});
#elif REMAT_VOID_IN == 2
  tape.plannable_region([&] {});
#else
  remat::blockwise(x, 0, 1, remat::policy::nothing, [](const remat::Var<float>&, remat::Index) {});
#endif
}
