// A model that somebody else trained, from its files: weights, tokenizer, chat template.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_decoder_save.hpp>
#include <remat/io/gguf_tokenizer.hpp>
#include <remat/io/hugging_face.hpp>
#include <remat/io/hugging_face_save.hpp>
#include <remat/text/make_tokenizer.hpp>
#include <remat/text/tokenizer_json.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// What `load` gives.
template <class T>
struct Pretrained {
  Decoder<T> model;             // with its weights
  text::Tokenizer tokenizer;    // that of the file
  std::string architecture{};   // as GGUF files call it: "llama", "gpt2"
  std::string chat_template{};  // how the file wants conversations written (Jinja); empty where it says nothing
  std::string source{};         // the file or folder that it was loaded from
};

namespace detail {

inline std::string chat_template_of(const io::HuggingFaceFolder& folder) {
  if (folder.has("chat_template.jinja")) return text::detail::read_text_file(folder.path() + "/chat_template.jinja");
  if (!folder.has("tokenizer_config.json")) return {};
  const text::detail::Json config = folder.read_json("tokenizer_config.json");
  const auto found = config.is_object() ? config.find("chat_template") : config.end();
  return config.is_object() && found != config.end() && found->is_string() ? found->get<std::string>() : std::string();
}

template <class T, class Source>
Pretrained<T> load_from(const Source& source, const Scope& where, text::Tokenizer tokenizer, std::string architecture,
                        std::string chat_template, const io::LoadOptions& options) {
  Pretrained<T> loaded{Decoder<T>(where.without_values(), io::decoder_config(source)), std::move(tokenizer),
                       std::move(architecture), std::move(chat_template), source.path()};
  io::load_weights(source, loaded.model, options);
  require(loaded.tokenizer.vocabulary_size() <= loaded.model.config.vocabulary, source.path(), ": the tokenizer has ",
          loaded.tokenizer.vocabulary_size(), " tokens, the embedding ", loaded.model.config.vocabulary, " rows");
  return loaded;
}

}  // namespace detail

/// The model in a GGUF file or in a folder of Hugging Face's, made in `where`: see `io::decoder_config` for those that
/// are read. Weights become numbers of `Accum<T>`, as parameters are, whatever they were, and none is frozen, but where
/// `options` say otherwise. An `Error` names what does not fit.
template <class T>
Pretrained<T> load(const Scope& where, const std::string& path, const io::LoadOptions& options = {}) {
  if (std::filesystem::is_directory(path)) {
    const io::HuggingFaceFolder folder(path);
    return detail::load_from<T>(folder, where, text::load_tokenizer(path + "/tokenizer.json"),
                                std::string(io::detail::family_of(folder).architecture),
                                detail::chat_template_of(folder), options);
  }
  const io::GgufFile file(path);
  return detail::load_from<T>(file, where, text::make_tokenizer(io::tokenizer_tables(file)),
                              file.get<std::string>("general.architecture"),
                              file.get<std::string>("tokenizer.chat_template", ""), options);
}

/// Settings of `save`.
struct SaveOptions {
  io::BlockFormat format = io::BlockFormat::f16;  // of matrices in a GGUF file: F32, F16, BF16 or Q8_0
  std::optional<DType> dtype{};  // of all weights in a folder: float32, float64, bfloat16; empty: as parameters are
  std::size_t shard_bytes = 0;   // of tensors in one file of a folder, at most; 0: all in one
};

/// Writes a model as what it was loaded from, a GGUF file or a folder, with the tokenizer from there, which must still
/// be there: a file where `path` ends with ".gguf", else a folder. See `io::save_gguf_model` and
/// `io::save_hugging_face`, which write the weights alone into either.
template <class T>
void save(const Pretrained<T>& loaded, const std::string& path, const SaveOptions& options = {}) {
  const bool is_gguf = path.ends_with(".gguf"), was_gguf = !std::filesystem::is_directory(loaded.source);
  require(is_gguf == was_gguf, path, ": the tokenizer of ", loaded.source, ", a ", was_gguf ? "GGUF file" : "folder",
          ", can be written to another ", was_gguf ? "GGUF file" : "folder",
          " only; write the weights alone by io::", is_gguf ? "save_gguf_model" : "save_hugging_face");
  if (!is_gguf)
    return io::save_hugging_face(loaded.model, path,
                                 {.dtype = options.dtype, .shard_bytes = options.shard_bytes, .like = loaded.source});
  const io::GgufFile base(loaded.source);
  io::save_gguf_model(loaded.model, path, {.format = options.format, .base = &base});
}

}}}  // namespace remat::models
