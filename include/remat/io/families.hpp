// The families of decoders whose files are read and written.
#pragma once

#include <remat/io/families/falcon.hpp>
#include <remat/io/families/gemma2.hpp>
#include <remat/io/families/gemma3.hpp>
#include <remat/io/families/gpt2.hpp>
#include <remat/io/families/granite.hpp>
#include <remat/io/families/llama.hpp>
#include <remat/io/families/olmo.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// All of them. A family more is a file more in `families/` and a line here.
inline const std::vector<DecoderFamily>& decoder_families() {
  static const std::vector<DecoderFamily> all = [] {
    std::vector<DecoderFamily> families = families::llamas();
    for (const auto family : {families::olmo2, families::olmo3, families::granite, families::gpt2, families::gemma2,
                              families::gemma3, families::falcon})
      families.push_back(family());
    return families;
  }();
  return all;
}

namespace detail {

/// The first family whose `name` (`architecture` or `model_type`) is `wanted`, or null.
inline const DecoderFamily* find_family(std::string_view DecoderFamily::*name, std::string_view wanted) {
  for (const DecoderFamily& family : decoder_families())
    if (family.*name == wanted) return &family;
  return nullptr;
}
/// Their names, for errors: "llama, qwen2".
inline std::string family_names(std::string_view DecoderFamily::*name) {
  std::string known;
  for (const DecoderFamily& family : decoder_families())
    if (find_family(name, family.*name) == &family) known.append(known.empty() ? "" : ", ").append(family.*name);
  return known;
}

}  // namespace detail

}}}  // namespace remat::io
