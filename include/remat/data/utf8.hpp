// UTF-8 by code points.
#pragma once

#include <remat/core/utf8.hpp>
