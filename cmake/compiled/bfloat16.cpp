#include <remat/compiled.hpp>

REMAT_EACH_KERNEL(, remat::bfloat16)
template class remat::kernels::packed::Product<remat::bfloat16, float>;
REMAT_EACH_OP(, remat::bfloat16)
REMAT_EACH_LAYER(, remat::bfloat16)
REMAT_EACH_SKIP_OP(, remat::bfloat16, float)
