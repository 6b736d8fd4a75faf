// Tokenizers of published models.
#pragma once

#include <remat/text/chat.hpp>
#include <remat/text/chat_format.hpp>
#include <remat/text/instruction_data.hpp>
#include <remat/text/instruction_sample.hpp>
#include <remat/text/make_tokenizer.hpp>
#include <remat/text/stop_strings.hpp>
#include <remat/text/stream_decoder.hpp>
#include <remat/text/tokenizer.hpp>
#include <remat/text/tokenizer_json.hpp>
#include <remat/text/tokenizer_tables.hpp>
#include <remat/text/vocabulary_files.hpp>
