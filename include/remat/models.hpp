// Models, beside the layers of remat.hpp.
#pragma once

#include <remat/models/decoder.hpp>
#include <remat/models/gpt.hpp>
