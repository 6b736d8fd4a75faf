// Models that others trained, from their files, with their tokenizers, and data to train them on. Needs remat::text.
#pragma once

#include <remat/io/gguf_lora.hpp>
#include <remat/io/instruction_cache.hpp>
#include <remat/io/merged_gguf.hpp>
#include <remat/io/peft.hpp>
#include <remat/io/pretrained.hpp>
#include <remat/io/pretrained_bert.hpp>
#include <remat/text.hpp>
