#include "compiled_ops/compiled_ops.hpp"

REMAT_TEST_OPS(, float)
REMAT_TEST_ROUTING_OPS(, float)
