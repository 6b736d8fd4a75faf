#include <remat/compiled.hpp>

REMAT_EACH_KERNEL(, float)
REMAT_EACH_OP(, float)
REMAT_EACH_SUM_OP(, float)
REMAT_EACH_LAYER(, float)
