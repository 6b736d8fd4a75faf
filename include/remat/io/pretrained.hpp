// A model that somebody else trained, from its files: weights, tokenizer, chat template.
#pragma once

#include <filesystem>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_tokenizer.hpp>
#include <remat/io/hugging_face.hpp>
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
                       std::move(architecture), std::move(chat_template)};
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

}}}  // namespace remat::models
