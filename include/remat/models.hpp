// Models, beside the layers of remat.hpp.
#pragma once

#include <remat/models/checkpointed.hpp>
#include <remat/models/continuation.hpp>
#include <remat/models/decoder.hpp>
#include <remat/models/decoder_config.hpp>
#include <remat/models/decoder_hidden.hpp>
#include <remat/models/encoder.hpp>
#include <remat/models/encoder_classifiers.hpp>
#include <remat/models/encoder_config.hpp>
#include <remat/models/encoder_decoder.hpp>
#include <remat/models/encoder_decoder_config.hpp>
#include <remat/models/encoder_heads.hpp>
#include <remat/models/encoder_language_model.hpp>
#include <remat/models/encoder_options.hpp>
#include <remat/models/generation.hpp>
#include <remat/models/gpt.hpp>
#include <remat/models/sampling.hpp>
#include <remat/models/translation.hpp>
