// The part of a tokenizer.json that says which tokens stand around a text.
#pragma once

#include <cstddef>
#include <remat/text/json_parts.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/tokenizer.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

// ["[CLS]", 101]
inline TokenId read_named_id(const JsonPlace& pair, const TokenTable& table) {
  if (pair.size() != 2) pair.refuse("is no pair of a token and its id");
  pair[std::size_t{0}].text();
  return static_cast<TokenId>(pair[1].index(table.size()));
}

/// One text's template: the ids before and behind it. That of pairs is read by nobody here.
inline void read_template(const JsonPlace& part, TokenizerParts& parts) {
  part.allow_only({"type", "single", "pair", "special_tokens"});
  bool has_text = false;
  std::vector<TokenId> before, behind;
  part["single"].each([&](const JsonPlace& item) {
    item.allow_only({"SpecialToken", "Sequence"});
    if (item.has("Sequence")) {
      if (has_text || item["Sequence"]["id"].text() != "A") item.refuse("is not the only Sequence \"A\"");
      has_text = true;
      return;
    }
    const std::string& name = item["SpecialToken"]["id"].text();
    const JsonPlace ids = part["special_tokens"][name.c_str()]["ids"];
    ids.each([&](const JsonPlace& id) {
      (has_text ? behind : before).push_back(static_cast<TokenId>(id.index(parts.table.size())));
    });
  });
  if (!has_text) part["single"].refuse("has no Sequence \"A\"");
  // Of several templates in a row the later stand outside.
  parts.before.insert(parts.before.begin(), before.begin(), before.end());
  parts.behind.insert(parts.behind.end(), behind.begin(), behind.end());
}

inline void read_post_processor(const JsonPlace& place, TokenizerParts& parts) {
  each_part(place, "processors", [&](const JsonPlace& part, const std::string& type) {
    if (type == "ByteLevel") {
      part.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});  // which are about offsets
    } else if (type == "TemplateProcessing") {
      read_template(part, parts);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      part.allow_only({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
      parts.before.insert(parts.before.begin(), read_named_id(part["cls"], parts.table));
      parts.behind.push_back(read_named_id(part["sep"], parts.table));
    } else {
      refuse_type(part, type, {"ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"});
    }
  });
}

}}}  // namespace remat::text::detail
