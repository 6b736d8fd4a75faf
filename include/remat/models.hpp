// Models, beside the layers of remat.hpp.
#pragma once

#include <remat/models/gpt.hpp>
