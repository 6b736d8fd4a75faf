// A tokenizer as tables, as files of whole models hold it.
#pragma once

#include <cstdint>
#include <optional>
#include <remat/core/config.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// The number of a token, as models take it.
using TokenId = std::int32_t;

/// The tokens with a role, where they are known.
struct SpecialIds {
  std::optional<TokenId> bos{};   // begins a text
  std::optional<TokenId> eos{};   // ends a text, or a turn
  std::optional<TokenId> pad{};   // fills a batch
  std::optional<TokenId> unk{};   // stands for what has no token
  std::optional<TokenId> mask{};  // stands for what is to be guessed
  std::optional<TokenId> cls{};   // begins a text of BERT's
  std::optional<TokenId> sep{};   // ends one
};

/// What a token is, with GGUF's numbers.
enum class TokenType : std::int32_t {
  normal = 1,
  unknown = 2,       // stands for what has no token
  control = 3,       // for the model, not for readers
  user_defined = 4,  // found in the text before anything else
  unused = 5,
  byte = 6  // <0x0A>
};

/// What a GGUF file says under `tokenizer.ggml`. `make_tokenizer` makes a tokenizer of it.
struct TokenizerTables {
  std::string name = "tokenizer";     // stands for the tables in errors: a file perhaps
  std::string model{};                // "gpt2": byte-level BPE; "llama": BPE by scores; "bert": WordPiece
  std::string pre = "default";        // how words are cut for "gpt2": "gpt-2", "llama-bpe", "smollm", "qwen2", "falcon"
  std::vector<std::string> tokens{};  // by id
  std::vector<float> scores{};        // by id; of "llama" only
  std::vector<TokenType> types{};     // by id; empty: all are normal
  std::vector<std::string> merges{};  // "left right", the first learned first; of "gpt2" only
  SpecialIds special_ids{};           // what is known of them
  bool add_bos = false;               // begin texts with bos
  bool add_eos = false;               // end texts with eos
  bool add_space_prefix = true;       // a space before the text; of "llama" only
};

}}}  // namespace remat::text
