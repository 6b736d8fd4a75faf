#include "compiled_ops/compiled_ops.hpp"

REMAT_TEST_OPS(, double)
