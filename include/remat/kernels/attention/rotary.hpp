// Rotary position embedding (Su et al. 2021) of a tile that was just loaded: no table of all positions anywhere.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/kernels/attention/problem.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// The frequency of pair j of `half` pairs.
template <class T>
double rotary_frequency(const AttentionProblem<T>& p, Index j, Index half) {
  if (p.rotary_turning >= 0 && j >= p.rotary_turning) return 0;
  const double frequency = std::pow(p.rotary_base, -static_cast<double>(j) / static_cast<double>(half));
  if (p.rotary_factors != nullptr) return frequency / p.rotary_factors[j];
  constexpr double pi = 3.14159265358979323846;
  if (p.rotary_fast > 0) {
    const auto pair_of = [&](double turns) {  // that turns so often
      return static_cast<double>(half) * std::log(static_cast<double>(p.rotary_context) / (turns * 2 * pi)) /
             std::log(p.rotary_base);
    };
    double low = pair_of(p.rotary_fast), high = pair_of(p.rotary_slow);
    if (p.rotary_whole_pairs) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, static_cast<double>(2 * half - 1));
    if (low == high) high += 0.001;
    const double divided = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    return frequency / p.rotary_factor * divided + frequency * (1 - divided);
  }
  if (p.rotary_factor == 1) return frequency;
  if (p.rotary_context == 0) return frequency / p.rotary_factor;
  const double turns = static_cast<double>(p.rotary_context) * frequency / (2 * pi);
  if (turns > p.rotary_high) return frequency;
  if (turns < p.rotary_low) return frequency / p.rotary_factor;
  const double kept = (turns - p.rotary_low) / (p.rotary_high - p.rotary_low);
  return (1 - kept) * frequency / p.rotary_factor + kept * frequency;
}

/// exp(i f p) in double for every frequency f: of p = 0 .. 63, then of p = 64, 128, .. 15 * 64. All threads read it.
struct RotaryTable {
  static constexpr Index steps = 64, strides = 16, anchor_distance = steps * strides;
  Index half;  // pairs of dimensions that turn; 0: none
  double amplitude;
  bool interleaved;
  double *frequencies, *cosines, *sines;

  template <class T>
  RotaryTable(const AttentionProblem<T>& p, ScratchArena& arena)
      : half(p.rotary_base > 0 ? (p.rotary_dims > 0 ? p.rotary_dims : p.head_dims) / 2 : 0),
        amplitude(p.rotary_amplitude),
        interleaved(p.rotary_interleaved),
        frequencies(arena.take<double>(half)),
        cosines(arena.take<double>((steps + strides) * half)),
        sines(arena.take<double>((steps + strides) * half)) {}

  template <class T>
  void fill(const AttentionProblem<T>& p) const {
    for (Index j = 0; j < half; ++j) frequencies[j] = rotary_frequency(p, j, half);
    for (Index i = 0; i < steps; ++i) fill_row(i, 0, 1);
    for (Index i = 0; i < strides; ++i) fill_row(i, steps, steps);
  }

 private:
  /// The row of position i * stride: powers of two by the library, the others as products of two rows before them.
  void fill_row(Index i, Index first, Index stride) const {
    const Index low = i & (i - 1), high = i - low;
    for (Index j = 0; j < half; ++j) {
      double& c = cosines[(first + i) * half + j];
      double& s = sines[(first + i) * half + j];
      if (low == 0) {
        c = std::cos(static_cast<double>(i * stride) * frequencies[j]);
        s = std::sin(static_cast<double>(i * stride) * frequencies[j]);
      } else {
        const Index a = (first + low) * half + j, b = (first + high) * half + j;
        c = cosines[a] * cosines[b] - sines[a] * sines[b];
        s = sines[a] * cosines[b] + cosines[a] * sines[b];
      }
    }
  }
};

/// One thread's angles of the tile at hand. In the half-split layout (GPT-NeoX, Falcon) dimension j turns with j +
/// half, interleaved (GPT-J, GLM) 2 j with 2 j + 1.
template <class T>
class Rotary {
 public:
  /// For tiles of up to `rows` rows.
  Rotary(const RotaryTable& table, ScratchArena& arena, Index rows = tile_rows)
      : table_(table),
        anchor_cosines_(arena.take<double>(table.half)),
        anchor_sines_(arena.take<double>(table.half)),
        base_cosines_(arena.take<double>(table.half)),
        base_sines_(arena.take<double>(table.half)),
        cosines_(arena.take<T>(rows * table.half)),
        sines_(arena.take<T>(rows * table.half)) {}

  bool turns() const { return table_.half > 0; }

  /// Makes the angles of positions [position, position + rows). They depend on the position alone, not on what was
  /// loaded before.
  [[gnu::noinline]] void load(Index position, Index rows) {
    if (!turns()) return;
    for (Index i = 0; i < rows; i += RotaryTable::steps)
      load_steps(position + i, std::min(RotaryTable::steps, rows - i), i * table_.half);
  }

  /// Turns rows of a tile forward, or back: the gradient of a turn is the turn back.
  template <bool Back = false>
  [[gnu::noinline]] void rotate(T* tile, Index pitch, Index rows) const {
    const Index half = table_.half;
    if (table_.interleaved) return rotate_neighbours<Back>(tile, pitch, rows);
    for (Index i = 0; i < rows; ++i) {
      T *first = tile + i * pitch, *second = first + half;
      const T *cosines = cosines_ + i * half, *sines = sines_ + i * half;
#pragma omp simd
      for (Index j = 0; j < half; ++j) {
        const T c = cosines[j], s = Back ? -sines[j] : sines[j], x = first[j], y = second[j];
        first[j] = x * c - y * s;
        second[j] = y * c + x * s;
      }
    }
  }

 private:
  template <bool Back>
  void rotate_neighbours(T* tile, Index pitch, Index rows) const {
    const Index half = table_.half;
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < half; ++j) {
        T* pair = tile + i * pitch + 2 * j;
        const T c = cosines_[i * half + j], s = Back ? -sines_[i * half + j] : sines_[i * half + j];
        const T x = pair[0], y = pair[1];
        pair[0] = x * c - y * s, pair[1] = y * c + x * s;
      }
  }
  /// Up to `steps` rows, from element `at` of the angles on.
  void load_steps(Index position, Index rows, Index at) {
    const Index half = table_.half;
    // The library is asked only once in 1024 positions; from there it is products of table rows.
    const Index rest = position & (RotaryTable::anchor_distance - 1), anchor = position - rest;
    if (!has_anchor_ || anchor != anchor_) {
      for (Index j = 0; j < half; ++j) {
        const double angle = static_cast<double>(anchor) * table_.frequencies[j];
        anchor_cosines_[j] = table_.amplitude * std::cos(angle);
        anchor_sines_[j] = table_.amplitude * std::sin(angle);
      }
      anchor_ = anchor, has_anchor_ = true;
    }
    turn(anchor_cosines_, anchor_sines_, RotaryTable::steps + rest / RotaryTable::steps, base_cosines_, base_sines_);
    turn(base_cosines_, base_sines_, rest % RotaryTable::steps, base_cosines_, base_sines_);
    for (Index i = 0; i < rows; ++i)
      turn(base_cosines_, base_sines_, i, cosines_ + at + i * half, sines_ + at + i * half);
  }
  /// to = from * (row of the table), as complex numbers.
  template <class U>
  void turn(const double* from_cosines, const double* from_sines, Index row, U* to_cosines, U* to_sines) const {
    const double *cosines = table_.cosines + row * table_.half, *sines = table_.sines + row * table_.half;
#pragma omp simd
    for (Index j = 0; j < table_.half; ++j) {
      const double c = from_cosines[j], s = from_sines[j];
      to_cosines[j] = static_cast<U>(c * cosines[j] - s * sines[j]);
      to_sines[j] = static_cast<U>(s * cosines[j] + c * sines[j]);
    }
  }

  const RotaryTable& table_;
  double *anchor_cosines_, *anchor_sines_, *base_cosines_, *base_sines_;
  T *cosines_, *sines_;  // [rows][half]
  Index anchor_ = 0;
  bool has_anchor_ = false;
};

}}}  // namespace remat::kernels::attention
