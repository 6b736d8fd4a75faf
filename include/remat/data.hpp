// Texts and batches.
#pragma once

#include <remat/data/batches.hpp>
#include <remat/data/held_out.hpp>
#include <remat/data/instruction_batch.hpp>
#include <remat/data/instruction_batches.hpp>
#include <remat/data/text_corpus.hpp>
#include <remat/data/utf8.hpp>
#include <remat/data/vocabulary.hpp>
