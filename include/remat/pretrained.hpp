// Models that others trained, from their files, with their tokenizers. Needs remat::text.
#pragma once

#include <remat/io/pretrained.hpp>
#include <remat/text.hpp>
