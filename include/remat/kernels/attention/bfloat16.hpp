// Attention in bfloat16 where the machine multiplies bfloat16: tiles stay bfloat16 as they came and the backend's
// matrix products take them whole. A product costs about a microsecond beside its work, so tiles are larger here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <remat/core/eigen.hpp>
#include <remat/kernels/attention/rotary.hpp>
#include <remat/kernels/attention/visibility.hpp>
#include <remat/kernels/gemm.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// Rows of bfloat16 tiles are filled up with zeros to a multiple of this: else every length of padding, and every step
/// of a mask's edge, would be one more shape for the backend to prepare.
inline constexpr Index bfloat16_step = 16;
constexpr Index round_to_step(Index rows) { return (rows + bfloat16_step - 1) / bfloat16_step * bfloat16_step; }

/// The row pitch of bfloat16 tiles.
constexpr Index bfloat16_pitch(Index dims) { return padded<std::uint16_t>(dims); }

/// Are there products that beat those of floats? Not for a scale that is not positive: it would turn what hides a score
/// into what shows it.
template <class T>
bool has_bfloat16_products([[maybe_unused]] const AttentionProblem<T>& p) {
#if defined(REMAT_GEMM_ONEDNN)
  if constexpr (std::is_same_v<T, bfloat16>) return p.scale > 0 && onednn::has_matmul<bfloat16>({});
#endif
  return false;
}

/// c = (or +=) a b in which, unless `b_finite`, zeros of a hide whatever is in b.
inline void multiply_weights(const Gemm& shape, const bfloat16* weights, const bfloat16* b, bool b_finite, float* c) {
  if (b_finite) return gemm(shape, weights, b, c);
  if (!shape.accumulate)
    for (Index i = 0; i < shape.m; ++i) std::fill_n(c + i * shape.ldc, shape.n, 0.0F);
  const auto product =
      shape.a == Trans::no ? multiply_hiding<Trans::no, float, bfloat16> : multiply_hiding<Trans::yes, float, bfloat16>;
  product(shape.m, shape.n, shape.k, weights, shape.lda, b, shape.ldb, c, shape.ldc);
}

/// Folds neighbouring lanes until lane 0 has them all.
template <class Combine>
inline void fold_lanes(Vector<float>::type& lanes, Combine&& combine) {
  using V = Vector<float>::type;
  constexpr int width = Vector<float>::width;
  const auto halve = [&]<int... Lane>(std::integer_sequence<int, Lane...>) {
    const V all = lanes, odd = __builtin_shufflevector(all, all, ((2 * Lane + 1) % width)...);
    lanes = __builtin_shufflevector(all, all, (2 * Lane % width)...);
    combine(lanes, odd);
  };
  for (int left = width; left > 1; left /= 2) halve(std::make_integer_sequence<int, width>{});
}

/// to[i] = from[i], rounded.
inline void round_row(const float* from, Index count, bfloat16* to) {
  const auto row = numbers(to);
#pragma omp simd
  for (Index j = 0; j < count; ++j) row[j] = from[j];
}

/// Copies [rows, dims] into a tile of round_to_step(rows) rows, zeros around it. False if anything is infinite or NaN.
[[gnu::noinline]] inline bool copy_bfloat16(const bfloat16* from, Index stride, Index rows, Index dims,
                                            bfloat16* tile) {
  using V = Vector<std::uint16_t>::type;
  constexpr Index width = Vector<std::uint16_t>::width;
  constexpr std::uint16_t exponent = 0x7f80;
  const Index pitch = bfloat16_pitch(dims), whole = dims / width * width;
  V odd{};
  auto* row = reinterpret_cast<std::uint16_t*>(tile);
  for (Index i = 0; i < rows; ++i, row += pitch) {
    const bfloat16* source = from + i * stride;
    const auto keep = [&](Index j, std::size_t bytes) {
      V bits{};
      std::memcpy(&bits, source + j, bytes);
      std::memcpy(row + j, &bits, sizeof(V));
      odd |= reinterpret_cast<V>((bits & exponent) == exponent);
    };
    for (Index j = 0; j < whole; j += width) keep(j, sizeof(V));
    if (whole < dims) keep(whole, static_cast<std::size_t>(dims - whole) * sizeof(bfloat16));
  }
  std::fill_n(row, (round_to_step(rows) - rows) * pitch, std::uint16_t{0});
  bool finite = true;
  for (int j = 0; j < width; ++j) finite = finite && odd[j] == 0;
  return finite;
}

/// The same, turned by position. `floats` is scratch for [rows][padded<float>(dims)].
inline bool copy_turned(const bfloat16* from, Index stride, Index position, Index rows, Index dims,
                        Rotary<float>& rotary, float* floats, bfloat16* tile) {
  if (!rotary.turns()) return copy_bfloat16(from, stride, rows, dims, tile);
  const Index float_pitch = padded<float>(dims), pitch = bfloat16_pitch(dims), filled = round_to_step(rows);
  const bool finite = copy_rows(from, stride, rows, dims, floats, rows);
  rotary.load(position, rows);
  rotary.rotate(floats, float_pitch, rows);
  std::fill_n(reinterpret_cast<std::uint16_t*>(tile), filled * pitch, std::uint16_t{0});
  for (Index i = 0; i < rows; ++i) round_row(floats + i * float_pitch, dims, tile + i * pitch);
  return finite;
}

/// The whole steps that hold some rows or columns of a tile.
inline Stretch whole_steps(const Stretch& some) {
  const Index begin = some.begin / bfloat16_step * bfloat16_step;
  return {begin, some.size() == 0 ? begin : round_to_step(some.end)};
}
/// Those of `rows` queries from t on that see any of `keys` keys from s on.
inline Stretch rows_that_see(const Visibility& seen, Index t, Index rows, Index s, Index keys) {
  const Index begin = std::clamp<Index>(seen.first_query(s) - t, 0, rows);
  return {begin, std::clamp<Index>(seen.last_query(s + keys - 1) - t, begin, rows)};
}
/// Those of `keys` keys from s on that query t sees.
inline Stretch keys_seen(const Visibility& seen, Index t, Index s, Index keys) {
  const Index begin = std::clamp<Index>(seen.begin(t) - s, 0, keys);
  return {begin, std::clamp<Index>(seen.end(t) - s, begin, keys)};
}
/// Zeros in a row of a tile outside of `kept`.
inline void clear_outside(const Stretch& kept, Index columns, bfloat16* row) {
  auto* bits = reinterpret_cast<std::uint16_t*>(row);
  std::fill_n(bits, kept.begin, std::uint16_t{0});
  std::fill_n(bits + kept.end, columns - kept.end, std::uint16_t{0});
}

}}}  // namespace remat::kernels::attention
