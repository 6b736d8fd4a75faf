#include <remat/compiled.hpp>

REMAT_EACH_ENTRANCE()
