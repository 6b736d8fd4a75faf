// The tokenizer in a GGUF file, as tables: `text::make_tokenizer(io::tokenizer_tables(file))`.
#pragma once

#include <remat/io/gguf.hpp>
#include <remat/text/tokenizer_tables.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// What the file says under `tokenizer.ggml`, copied. An `Error` names what is missing or of another type.
inline text::TokenizerTables tokenizer_tables(const GgufFile& file) {
  const auto key = [](std::string_view name) { return "tokenizer.ggml." + std::string(name); };
  text::TokenizerTables tables;
  tables.name = file.path();
  tables.model = file.get<std::string>(key("model"));
  tables.pre = file.get<std::string>(key("pre"), tables.pre);
  tables.tokens = file.get<std::vector<std::string>>(key("tokens"));
  tables.scores = file.get<std::vector<float>>(key("scores"), {});
  for (const auto type : file.get<std::vector<std::int32_t>>(key("token_type"), {}))
    tables.types.push_back(static_cast<text::TokenType>(type));
  tables.merges = file.get<std::vector<std::string>>(key("merges"), {});
  const auto special = [&](std::string_view name) -> std::optional<text::TokenId> {
    if (file.find(key(name)) == nullptr) return std::nullopt;
    return file.get<text::TokenId>(key(name));
  };
  tables.special_ids = {.bos = special("bos_token_id"),
                        .eos = special("eos_token_id"),
                        .pad = special("padding_token_id"),
                        .unk = special("unknown_token_id"),
                        .mask = special("mask_token_id"),
                        .cls = special("cls_token_id"),
                        .sep = special("seperator_token_id")};  // spelled so in files
  tables.add_bos = file.get<bool>(key("add_bos_token"), tables.add_bos);
  tables.add_eos = file.get<bool>(key("add_eos_token"), tables.add_eos);
  tables.add_space_prefix = file.get<bool>(key("add_space_prefix"), tables.add_space_prefix);
  return tables;
}

}}}  // namespace remat::io
