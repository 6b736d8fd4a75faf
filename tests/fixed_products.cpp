// Products of all tests are of one backend, whatever a machine measures, unless REMAT_GEMM says otherwise; the tests of
// products take each in turn.
#include <cstdlib>

namespace {
[[maybe_unused]] const int fixed = setenv("REMAT_GEMM", "own", 0);
}
