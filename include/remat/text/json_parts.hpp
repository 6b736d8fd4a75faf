// The parts of a tokenizer.json around the model. One that is not supported is an `Error` by its name.
#pragma once

#include <cstddef>
#include <remat/text/json_place.hpp>
#include <remat/text/tokenizer.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// `one(part)` for a part, or for each of those in a Sequence, whose member `list` they are.
template <class One>
void each_part(const JsonPlace& part, const char* list, One&& one, int depth = 0) {
  if (part["type"].text() != "Sequence") return one(part, part["type"].text());
  if (depth == 8) part.refuse("is the ninth Sequence inside another");
  part.allow_only({"type", list});
  part[list].each([&](const JsonPlace& inner) { each_part(inner, list, one, depth + 1); });
}

[[noreturn]] inline void refuse_type(const JsonPlace& part, const std::string& type,
                                     const std::vector<std::string>& known) {
  part.refuse("has the type \"", type.substr(0, 60), "\", which is not supported",
              remat::detail::did_you_mean(type, known), "; supported are: ", remat::detail::joined(known),
              ", Sequence");
}

/// Errors in making something of the file, with the place in front.
template <class Make>
auto at_place(const JsonPlace& place, Make&& make) {
  try {
    return make();
  } catch (const Error& error) {
    place.refuse("is wrong: ", error.what());
  }
}

inline Pattern read_pattern(const JsonPlace& place) {
  place.allow_only({"String", "Regex"});
  const bool is_regex = place.has("Regex");
  if (is_regex == place.has("String")) place.refuse("needs one of the fields \"String\" and \"Regex\"");
  const JsonPlace text = place[is_regex ? "Regex" : "String"];
  return at_place(text, [&] { return is_regex ? Pattern::regex(text.text()) : Pattern::literal(text.text()); });
}

inline SplitBehavior read_behavior(const JsonPlace& place) {
  const std::string& name = place.text();
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  place.refuse("is \"", name.substr(0, 60),
               "\", not one of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

inline Metaspace read_metaspace(const JsonPlace& part) {
  part.allow_only({"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"});
  Metaspace metaspace;
  metaspace.replacement = part["replacement"].text();
  std::size_t end = 0;
  if (!metaspace.replacement.empty()) utf8::next(metaspace.replacement, end);
  if (end == 0 || end != metaspace.replacement.size()) part["replacement"].refuse("is not one character");
  const std::string scheme = part.text("prepend_scheme", "always");
  if (scheme == "first")
    metaspace.prepend = Metaspace::Prepend::first;
  else if (scheme == "never")
    metaspace.prepend = Metaspace::Prepend::never;
  else if (scheme != "always")
    part["prepend_scheme"].refuse("is \"", scheme.substr(0, 60), "\", not one of always, first, never");
  if (!part.flag("add_prefix_space", true)) {
    if (part.has("prepend_scheme") && scheme != "never")
      part.refuse("has add_prefix_space false, but prepend_scheme \"", scheme, '"');
    metaspace.prepend = Metaspace::Prepend::never;
  }
  metaspace.splits = part.flag("split", true);
  return metaspace;
}

inline Normalizer read_normalizer(const JsonPlace& place) {
  Normalizer normalizer;
  each_part(place, "normalizers", [&](const JsonPlace& part, const std::string& type) {
    if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
      part.allow_only({"type"});
      normalizer.add(Normalized{type == "NFC"    ? NormalForm::nfc
                                : type == "NFD"  ? NormalForm::nfd
                                : type == "NFKC" ? NormalForm::nfkc
                                                 : NormalForm::nfkd});
    } else if (type == "Lowercase") {
      part.allow_only({"type"});
      normalizer.add(Lowercase{});
    } else if (type == "StripAccents") {
      part.allow_only({"type"});
      normalizer.add(StripAccents{});
    } else if (type == "Prepend") {
      part.allow_only({"type", "prepend"});
      normalizer.add(Prepend{part["prepend"].text()});
    } else if (type == "Replace") {
      part.allow_only({"type", "pattern", "content"});
      normalizer.add(Replace{read_pattern(part["pattern"]), part["content"].text()});
    } else if (type == "Strip") {
      part.allow_only({"type", "strip_left", "strip_right"});
      normalizer.add(Strip{part["strip_left"].flag(), part["strip_right"].flag()});
    } else if (type == "BertNormalizer") {
      part.allow_only({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
      BertNormalizer bert{part["clean_text"].flag(), part["handle_chinese_chars"].flag(), part["lowercase"].flag()};
      if (part.has("strip_accents")) bert.strip_accents = part["strip_accents"].flag();
      normalizer.add(bert);
    } else {
      refuse_type(
          part, type,
          {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Prepend", "Replace", "Strip", "BertNormalizer"});
    }
  });
  return normalizer;
}

inline PreTokenizer read_pre_tokenizer(const JsonPlace& place) {
  PreTokenizer pre_tokenizer;
  each_part(place, "pretokenizers", [&](const JsonPlace& part, const std::string& type) {
    if (type == "ByteLevel") {
      part.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      ByteLevel level;
      level.add_prefix_space = part["add_prefix_space"].flag();
      if (part.flag("use_regex", true)) level.words = Pattern::regex(gpt2_words);
      pre_tokenizer.add(level);
    } else if (type == "Split") {
      part.allow_only({"type", "pattern", "behavior", "invert"});
      pre_tokenizer.add(
          SplitAt{read_pattern(part["pattern"]), read_behavior(part["behavior"]), part.flag("invert", false)});
    } else if (type == "Digits") {
      part.allow_only({"type", "individual_digits"});
      pre_tokenizer.add(Digits{part["individual_digits"].flag()});
    } else if (type == "Whitespace") {
      part.allow_only({"type"});
      pre_tokenizer.add(Whitespace{});
    } else if (type == "WhitespaceSplit") {
      part.allow_only({"type"});
      pre_tokenizer.add(WhitespaceSplit{});
    } else if (type == "BertPreTokenizer") {
      part.allow_only({"type"});
      pre_tokenizer.add(BertPreTokenizer{});
    } else if (type == "Metaspace") {
      pre_tokenizer.add(read_metaspace(part));
    } else if (type == "Punctuation") {
      part.allow_only({"type", "behavior"});
      pre_tokenizer.add(Punctuation{part.has("behavior") ? read_behavior(part["behavior"]) : SplitBehavior::isolated});
    } else {
      refuse_type(part, type,
                  {"ByteLevel", "Split", "Digits", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace",
                   "Punctuation"});
    }
  });
  at_place(place, [&] { pre_tokenizer.finish(); });
  return pre_tokenizer;
}

inline Decoder read_decoder(const JsonPlace& place) {
  Decoder decoder;
  decoder.set_present();
  each_part(place, "decoders", [&](const JsonPlace& part, const std::string& type) {
    if (type == "ByteLevel") {
      part.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      decoder.add(ByteLevelDecoder{});
    } else if (type == "ByteFallback") {
      part.allow_only({"type"});
      decoder.add(ByteFallbackDecoder{});
    } else if (type == "Fuse") {
      part.allow_only({"type"});
      decoder.add(Fuse{});
    } else if (type == "Replace") {
      part.allow_only({"type", "pattern", "content"});
      decoder.add(ReplaceDecoder{read_pattern(part["pattern"]), part["content"].text()});
    } else if (type == "Strip") {
      part.allow_only({"type", "content", "start", "stop"});
      StripDecoder strip{part["content"].text(), static_cast<std::size_t>(part["start"].index(1 << 20)),
                         static_cast<std::size_t>(part["stop"].index(1 << 20))};
      if (strip.content.empty()) part["content"].refuse("is empty");
      decoder.add(strip);
    } else if (type == "Metaspace") {
      decoder.add(MetaspaceDecoder{read_metaspace(part)});
    } else if (type == "WordPiece") {
      part.allow_only({"type", "prefix", "cleanup"});
      decoder.add(WordPieceDecoder{part["prefix"].text(), part["cleanup"].flag()});
    } else if (type == "BPEDecoder") {
      part.allow_only({"type", "suffix"});
      if (part["suffix"].text().empty()) part["suffix"].refuse("is empty");
      decoder.add(BpeDecoder{part["suffix"].text()});
    } else {
      refuse_type(part, type,
                  {"ByteLevel", "ByteFallback", "Fuse", "Replace", "Strip", "Metaspace", "WordPiece", "BPEDecoder"});
    }
  });
  return decoder;
}

}}}  // namespace remat::text::detail
