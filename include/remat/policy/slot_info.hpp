// What a policy is told about a slot, and what it answers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <ostream>
#include <remat/core/shape.hpp>
#include <span>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace policy {

/// What becomes of a value between forward and backward, in the order recompute < offload < int8 < bfloat16 < save: the
/// two in the middle keep it compressed, see `policy::lossy`.
enum class Verdict : unsigned char { recompute, offload, int8, bfloat16, save };

/// The greater of two verdicts.
constexpr Verdict operator|(Verdict a, Verdict b) { return std::max(a, b); }
/// The lesser of two verdicts.
constexpr Verdict operator&(Verdict a, Verdict b) { return std::min(a, b); }
/// Recompute becomes save, the others become recompute.
constexpr Verdict operator!(Verdict v) { return v == Verdict::recompute ? Verdict::save : Verdict::recompute; }

/// "recompute", "offload", "int8", "bfloat16" or "save".
constexpr std::string_view to_string(Verdict v) {
  constexpr std::string_view names[] = {"recompute", "offload", "int8", "bfloat16", "save"};
  return names[static_cast<int>(v)];
}
/// Prints `to_string(v)`.
inline std::ostream& operator<<(std::ostream& out, Verdict v) { return out << to_string(v); }

/// One output of one recorded op, described without its data. Views only: the tape owns what they look at, and
/// they are valid while a policy is asked.
struct SlotInfo {
  Index index = 0;                        // place on the tape
  std::string_view op{};                  // "linear"
  std::span<const std::string> labels{};  // a set, given by checkpoint_name
  std::string_view layer_path{};          // of the use: "decoder/layer_3/ffn"
  Shape shape{};                          // axis lengths
  std::size_t bytes = 0;                  // of the value as it was computed
  double flops = 0;                       // of the op that makes it, contractions only
  bool dot = false;                       // the output of a contraction
  bool batched = false;                   // of a contraction with batch axes (attention); implies dot

  /// Was it given this label?
  bool has_label(std::string_view name) const {
    return std::any_of(labels.begin(), labels.end(), [&](const std::string& label) { return label == name; });
  }
};

}}}  // namespace remat::policy
