// Readers of what comes from strangers, each as a function of bytes: it ends or throws an Error, whatever they are.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <remat/core/error.hpp>
#include <remat/core/file.hpp>
#include <remat/data/text_corpus.hpp>
#include <remat/io/families.hpp>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_tokenizer.hpp>
#include <remat/io/safetensors.hpp>
#include <remat/io/safetensors_shards.hpp>
#include <remat/io/state_folder.hpp>
#include <remat/io/token_cache.hpp>
#include <remat/policy/parse.hpp>
#include <remat/text/chat_format.hpp>
#include <remat/text/instruction_data.hpp>
#include <remat/text/make_tokenizer.hpp>
#include <remat/text/tokenizer_json.hpp>
#include <remat/text/vocabulary_files.hpp>
#include <string>
#include <string_view>

namespace remat_test {

/// A file of these bytes that lies in memory.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : descriptor_(::memfd_create("bytes", MFD_CLOEXEC)) {
    if (descriptor_ < 0 || ::write(descriptor_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      std::abort();
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(descriptor_); }

  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// A folder of this process's own, whose files are replaced.
class ScratchFolder {
 public:
  ScratchFolder()
      : path_((std::filesystem::temp_directory_path() / ("remat_fuzz_" + std::to_string(::getpid()))).string()) {
    std::filesystem::create_directories(path_ + "/step-1");
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  void write(const std::string& name, std::string_view bytes) const {
    remat::io::File(path_ + "/" + name, O_WRONLY | O_CREAT | O_TRUNC).write(bytes);
  }

 private:
  std::string path_;
};

/// Known by the name of the folder of its seeds.
struct FuzzTarget {
  const char* name;
  void (*read)(std::string_view bytes);
};

namespace fuzz {

namespace text = remat::text;

inline const text::Tokenizer& some_tokenizer() {
  static const text::Tokenizer tokenizer =
      text::load_tokenizer(std::string(REMAT_SOURCE_DIR) + "/tests/golden/tokenizers/smollm.json");
  return tokenizer;
}

inline void safetensors(std::string_view bytes) {
  const MemoryFile memory(bytes);
  const remat::io::SafetensorsFile file(memory.path());
  for (const auto& [name, info] : file.tensors())
    if (info.dtype == "F32" || info.dtype == "BF16" || info.dtype == "F16") file.read_as<float>(name);
}
inline void index(std::string_view bytes) { remat::io::detail::parse_weight_map(bytes); }
inline void gguf(std::string_view bytes) {
  const MemoryFile memory(bytes);
  const remat::io::GgufFile file(memory.path());
  const auto read = [](auto&& what) {  // what one part lacks is no reason to leave out the other
    try {
      what();
    } catch (const remat::Error&) {
    }
  };
  read([&] { remat::io::decoder_config(file); });
  read([&] { text::make_tokenizer(remat::io::tokenizer_tables(file)).encode("to be, or not to be"); });
}
inline void config(std::string_view bytes) {
  const auto json = text::detail::parse_json(bytes);
  const text::detail::JsonPlace place(json, "");
  const auto* family =
      remat::io::detail::find_family(&remat::io::DecoderFamily::model_type, place["model_type"].text());
  if (family != nullptr) family->of_folder(place);
}
inline void tokenizer(std::string_view bytes) {
  const text::Tokenizer made(text::detail::read_tokenizer_json(bytes));
  made.decode(made.encode("To be, or not to be: that is \xE2\x82\xAC 42."));
}
inline void vocabulary(std::string_view bytes) { text::detail::read_vocabulary_json(std::string(bytes)); }
inline void chat_template(std::string_view bytes) { text::recognize_chat(bytes); }
inline void instructions(std::string_view bytes) {
  const MemoryFile memory(bytes);
  text::read_instructions(memory.path(), some_tokenizer(), {.context = 64, .skip_bad_lines = true});
}
inline void token_cache(std::string_view bytes) {
  const MemoryFile memory(bytes);
  const remat::io::TokenCache cache(memory.path());
  cache.samples();
}
inline void manifest(std::string_view bytes) {
  static const ScratchFolder folder;
  folder.write("step-1/manifest.json", bytes);
  remat::io::detail::StateFolder(folder.path()).read(1);
}
inline void policy(std::string_view bytes) { remat::policy::to_string(remat::policy::parse(bytes)); }
inline void corpus(std::string_view bytes) {
  const MemoryFile memory(bytes);
  const auto corpus = remat::data::TextCorpus::read_characters(memory.path());
  corpus.decode(corpus.tokens());
}

}  // namespace fuzz

inline constexpr FuzzTarget fuzz_targets[] = {{"safetensors", fuzz::safetensors},
                                              {"index", fuzz::index},
                                              {"gguf", fuzz::gguf},
                                              {"config", fuzz::config},
                                              {"tokenizer", fuzz::tokenizer},
                                              {"vocabulary", fuzz::vocabulary},
                                              {"chat_template", fuzz::chat_template},
                                              {"instructions", fuzz::instructions},
                                              {"token_cache", fuzz::token_cache},
                                              {"manifest", fuzz::manifest},
                                              {"policy", fuzz::policy},
                                              {"corpus", fuzz::corpus}};

}  // namespace remat_test
