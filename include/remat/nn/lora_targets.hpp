// Which matrices adapters are made for: patterns over the paths of linear layers.
#pragma once

#include <algorithm>
#include <remat/params/registry.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace nn { namespace detail {

/// What has a matrix that may be adapted: a linear layer, an embedding, or a head, of its own or tied to an embedding.
enum class Adapted { linear, embedding, head };

/// One of these that is to be adapted: whole, or pieces of a linear's matrix.
struct LoraTarget {
  std::string layer;               // its path
  std::string weight;              // of its matrix or table
  std::vector<MatrixPart> pieces;  // in order; empty: whole
};

/// Of all linear layers in `parameters`, those with a matrix `w`, the ones that a pattern fits, in order of path; or of
/// all embeddings, those with a `table`, or of all that may be heads: those and matrices of heads alone. A part of a
/// matrix has the path that it would have as a layer of its own. An `Error`, which begins with `path`, names a pattern
/// that fits nothing, and one of a part where another fits the whole.
inline std::vector<LoraTarget> lora_targets(const ParameterRegistry& parameters,
                                            const std::vector<std::string>& patterns, const std::string& path,
                                            Adapted what = Adapted::linear) {
  std::vector<LoraTarget> found;
  std::vector<std::string> known;
  std::set<std::string> used;
  const auto fitting = [&](const std::string& layer) {
    known.push_back(layer);
    std::vector<std::string> all;
    for (const std::string& pattern : patterns)
      if (remat::detail::fits(pattern, layer)) all.push_back(pattern);
    used.insert(all.begin(), all.end());
    return all;
  };
  for (const auto& entry : parameters.entries()) {
    const bool is_table = entry->path.ends_with("/table"), is_linear = entry->path.ends_with("/w") && !entry->is_head;
    const bool is_so = what == Adapted::linear ? is_linear : is_table || (what == Adapted::head && entry->is_head);
    if (!is_so || entry->value.shape.rank() != 2) continue;
    LoraTarget target{entry->path.substr(0, entry->path.rfind('/')), entry->path, {}};
    const std::vector<std::string> of_whole = fitting(target.layer);
    for (const MatrixPart& piece : entry->parts) {
      const std::vector<std::string> of_piece =
          fitting(target.layer.substr(0, target.layer.rfind('/') + 1) + piece.name);
      for (const std::string& pattern : of_piece)
        require(of_whole.empty() || remat::detail::fits(pattern, target.layer), path, ": lora: the target \"", pattern,
                "\" is of a part of ", target.layer, ", which \"", of_whole.empty() ? "" : of_whole.front(),
                "\" adapts whole; leave out one of them");
      if (!of_piece.empty() && of_whole.empty()) target.pieces.push_back(piece);
    }
    if (!of_whole.empty() || !target.pieces.empty()) found.push_back(std::move(target));
  }
  for (const std::string& pattern : patterns)
    require(used.contains(pattern), path, ": lora: the target \"", pattern, "\" fits no ",
            what == Adapted::linear ? "linear layer"
            : what == Adapted::head ? "head"
                                    : "embedding",
            remat::detail::nearest_paths(pattern, known));
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.layer < b.layer; });
  return found;
}

}}}}  // namespace remat::nn::detail
