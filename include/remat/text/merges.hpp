// Merges as files write them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <remat/core/error.hpp>
#include <remat/text/bpe.hpp>
#include <remat/text/token_table.hpp>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// The tokens left, right and both together of merge number `rank`.
inline Merge merge_of(const TokenTable& table, std::string_view left, std::string_view right, std::size_t rank,
                      const std::string& continuing_prefix) {
  require(rank < static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()), "has too many merges");
  const auto id_of = [&](std::string_view token) {
    const auto id = table.find(token);
    require(id.has_value(), "the merge of \"", left, "\" and \"", right, "\" needs the token \"", token,
            "\", which the vocabulary lacks");
    return *id;
  };
  const TokenId left_id = id_of(left), right_id = id_of(right);
  require(right.size() >= continuing_prefix.size(), "the merge of \"", left, "\" and \"", right,
          "\" joins a token that is shorter than the prefix of continuations");
  return {left_id, right_id, static_cast<std::int32_t>(rank),
          id_of(std::string(left) + std::string(right.substr(continuing_prefix.size())))};
}

/// "left right"
inline Merge merge_of(const TokenTable& table, std::string_view line, std::size_t rank,
                      const std::string& continuing_prefix = {}) {
  const std::size_t space = line.find(' ');
  require(space != std::string_view::npos && space > 0 && space + 1 < line.size() &&
              line.find(' ', space + 1) == std::string_view::npos,
          "the merge \"", line.substr(0, 100), "\" is not two tokens with a space between");
  return merge_of(table, line.substr(0, space), line.substr(space + 1), rank, continuing_prefix);
}

}}}  // namespace remat::text::detail
