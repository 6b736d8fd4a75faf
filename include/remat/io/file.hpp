// Files: reading at an offset, and replacing a file as a whole or not at all.
#pragma once

#include <remat/core/file.hpp>
