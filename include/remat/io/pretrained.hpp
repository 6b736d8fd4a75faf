// A model that somebody else trained, from its file: weights, tokenizer, chat template.
#pragma once

#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_tokenizer.hpp>
#include <remat/text/make_tokenizer.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// What `load` gives.
template <class T>
struct Pretrained {
  Decoder<T> model;             // with its weights, none of them frozen
  text::Tokenizer tokenizer;    // that of the file
  std::string chat_template{};  // how the file wants conversations written (Jinja); empty where it says nothing
};

/// The model in a GGUF file, made in `where`: see `io::decoder_config` for the architectures that are read. Quantized
/// weights become numbers of `Accum<T>`, as parameters are. An `Error` names what does not fit.
template <class T>
Pretrained<T> load(const Scope& where, const std::string& path) {
  const io::GgufFile file(path);
  Pretrained<T> loaded{Decoder<T>(where, io::decoder_config(file)), text::make_tokenizer(io::tokenizer_tables(file)),
                       file.get<std::string>("tokenizer.chat_template", "")};
  io::load_weights(file, loaded.model);
  require(loaded.tokenizer.vocabulary_size() <= loaded.model.config.vocabulary, path, ": the tokenizer has ",
          loaded.tokenizer.vocabulary_size(), " tokens, the embedding ", loaded.model.config.vocabulary, " rows");
  return loaded;
}

}}}  // namespace remat::models
