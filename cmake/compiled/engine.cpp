#include <remat/compiled.hpp>

REMAT_ENGINE()
