#include <remat/compiled.hpp>

REMAT_EACH_KERNEL(, double)
REMAT_EACH_OP(, double)
REMAT_EACH_SUM_OP(, double)
REMAT_EACH_LAYER(, double)
