// Ring attention (Liu, Zaharia and Abbeel 2023) with pieces dealt out in zigzag: each rank has the queries of its part
// of a sequence, and the keys and values of all ranks come by, piece after piece. Nowhere an array of [T, S]. What
// is summed in which order is fixed by rank and shape, so no bit depends on timing.
#pragma once

#include <remat/kernels/ring/backward.hpp>
#include <remat/kernels/ring/forward.hpp>
