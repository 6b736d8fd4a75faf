// What attention refuses: options that are out of their ranges or do not go together, and masks of wrong shapes.
#pragma once

#include <cstdint>
#include <remat/autodiff/op.hpp>
#include <remat/core/error.hpp>
#include <remat/ops/attention_options.hpp>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// Of heads of `head_dims`.
inline void check_numbers(const AttentionOptions& o, Index head_dims) {
  require(o.window >= 0 && o.query_chunk >= 0 && o.key_chunk >= 0, "window ", o.window, ", query_chunk ", o.query_chunk,
          " or key_chunk ", o.key_chunk, " is negative");
  check_position(o.offset.value_or(0), "offset");
  check_position(o.key_position, "key_position");
  check_position(o.relative_max_distance, "relative_max_distance");
  require(o.window_right >= 0 && (o.window_right == 0 || o.window > 0), "window_right ", o.window_right,
          " is negative, or beside no window");
  require(o.rotary_base == 0 || o.rotary_scaling.kind != RotaryScaling::longrope ||
              static_cast<Index>(o.rotary_scaling.factors.size()) ==
                  rotary_pairs(head_dims, o.rotary_dims, o.rotary_scaling),
          "rotary_scaling has ", o.rotary_scaling.factors.size(),
          " factors, one a pair is needed: ", rotary_pairs(head_dims, o.rotary_dims, o.rotary_scaling));
  require(o.soft_cap >= 0, "soft_cap ", o.soft_cap, " is negative");
  require(o.rotary_base >= 0, "rotary_base ", o.rotary_base, " is negative");
  if (const char* fault = fault_of(o.rotary_scaling)) fail(fault);
  const Index turned = o.rotary_dims == 0 ? head_dims : o.rotary_dims;
  require(o.rotary_base == 0 || (0 <= turned && turned <= head_dims && turned % 2 == 0), "rotary_dims ", turned,
          " is not an even part of ", head_dims, " head dims");
}

/// Of `op`, an `AttentionOp`, for t queries and s keys.
template <class O>
void check_masks(const O& op, const Operands& in, Index batch, Index t, Index s, Index heads) {
  const AttentionOptions& o = op.options;
  require(!in.has(op.sinks) || in[op.sinks].shape == Shape{heads}, in.name(op.sinks, "sinks"), " have shape ",
          in.has(op.sinks) ? in[op.sinks].shape : Shape{}, ", [", heads, "] is needed");
  require(!o.alibi || o.alibi_form == AlibiForm::distance || !in.has(op.query_segments),
          "alibi_form bfloat16_key_position rounds by position, so segments would depend on where they begin; use "
          "AlibiForm::distance");
  const auto shaped = [&](In<std::int32_t> x, const char* name, const Shape& shape) {
    require(!in.has(x) || in[x].shape == shape, name, " has shape ", in[x].shape, ", ", shape, " is needed");
  };
  shaped(op.key_lengths, "key_lengths", {batch});
  shaped(op.prefix_lengths, "prefix_lengths", {batch});
  shaped(op.query_offsets, "query_offsets", {batch});
  require(!in.has(op.query_offsets) || o.rotary_base == 0,
          "query_offsets say nothing to rotary; give positions and key_positions too");
  shaped(op.query_segments, "query_segments", {batch, t});
  shaped(op.key_segments, "key_segments", {batch, s});
  require(!in.has(op.key_segments) || in.has(op.query_segments), "key_segments without query_segments");
  require(!in.has(op.query_segments) || in.has(op.key_segments) || t == s, "query_segments without key_segments, but ",
          t, " queries and ", s, " keys");
  if (in.has(op.bias)) {
    const Shape &given = in[op.bias].shape, full{batch, heads, t, s};
    bool fits = given.rank() == 4;
    for (int i = 0; i < 4 && fits; ++i) fits = given[i] == 1 || given[i] == full[i];
    require(fits, in.name(op.bias, "bias"), " has shape ", given, ", ", full, " with any axis 1 is needed");
  }
  if (in.has(op.relative_bias)) {
    const Shape& table = in[op.relative_bias].shape;
    const auto name = in.name(op.relative_bias, "relative_bias");
    const Index sides = o.causal ? 1 : 2;
    require(table.rank() == 2 && table[1] == heads, name, " has shape ", table, ", [buckets, ", heads, "] is needed");
    require(table[0] >= 2 * sides && table[0] % sides == 0, name, " has ", table[0], " buckets, ",
            o.causal ? "2 or more are needed" : "an even number from 4 on is needed");
    require(o.relative_max_distance > table[0] / (2 * sides), "relative_max_distance ", o.relative_max_distance,
            " lies within the ", table[0] / (2 * sides), " exact buckets");
  }
}

}}}  // namespace remat::ops
