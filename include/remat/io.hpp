// Weights, states of a training, logs and the progress line.
#pragma once

#include <remat/io/chosen_products.hpp>
#include <remat/io/file.hpp>
#include <remat/io/fingerprint.hpp>
#include <remat/io/gguf.hpp>
#include <remat/io/gguf_header.hpp>
#include <remat/io/gguf_save.hpp>
#include <remat/io/gguf_types.hpp>
#include <remat/io/gguf_value.hpp>
#include <remat/io/jsonl.hpp>
#include <remat/io/mapped_file.hpp>
#include <remat/io/progress.hpp>
#include <remat/io/safetensors.hpp>
#include <remat/io/safetensors_header.hpp>
#include <remat/io/safetensors_save.hpp>
#include <remat/io/safetensors_shards.hpp>
#include <remat/io/stop_signal.hpp>
#include <remat/io/token_cache.hpp>
#include <remat/io/trace.hpp>
#include <remat/io/training_state.hpp>
