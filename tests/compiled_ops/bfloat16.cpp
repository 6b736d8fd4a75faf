#include "compiled_ops/compiled_ops.hpp"

REMAT_TEST_OPS(, remat::bfloat16)
REMAT_TEST_SKIP_OPS(, remat::bfloat16, float)
