// What happens to scores besides masks by position: soft cap, biases, segments. One pass over a group of rows, the
// same for forward (queries in the lanes) and backward (keys in the lanes).
#pragma once

#include <cmath>
#include <limits>
#include <remat/kernels/attention/visibility.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// Slope of head n = 0 .. heads - 1, as in the code of Press et al. (2022): 2^(-8 (n + 1) / heads). For a number of
/// heads that is no power of two, first the slopes of the greatest power of two below, P, then the first, third, fifth
/// ... of 2 P heads.
inline double alibi_slope(Index n, Index heads) {
  Index lower = 1;
  while (lower * 2 <= heads) lower *= 2;
  const auto step = [](Index count) { return -8 / static_cast<double>(count); };
  return n < lower ? std::exp2(step(lower) * static_cast<double>(n + 1))
                   : std::exp2(step(2 * lower) * static_cast<double>(2 * (n - lower) + 1));
}

/// T5's bucket of the distance key - query (Raffel et al. 2020): exact up to half of the buckets, then logarithmic up
/// to max_distance. Two-sided tables give keys behind the query the upper half; else those share the bucket of 0.
class RelativeBuckets {
 public:
  template <class T>
  RelativeBuckets(const AttentionProblem<T>& p, ScratchArena& arena)
      : side_(p.causal ? 0 : static_cast<std::int32_t>(p.buckets / 2)),
        count_(static_cast<std::int32_t>(p.buckets) - side_),
        limit_(p.max_distance),
        table_(arena.take<std::int32_t>(p.buckets > 0 ? limit_ + 1 : 0)),
        is_one_sided_(p.causal),
        is_used_(p.buckets > 0) {}

  void fill() const {
    if (!is_used_) return;
    const std::int32_t exact = count_ / 2;
    for (Index distance = 0; distance <= limit_; ++distance) {
      const auto d = static_cast<std::int32_t>(std::min<Index>(distance, exact));
      table_[distance] = d;
      if (distance < exact) continue;
      const double share =
          std::log(static_cast<double>(distance) / exact) / std::log(static_cast<double>(limit_) / exact);
      // Distances on a boundary belong above it, whatever the logarithms' last digit says.
      table_[distance] = std::min(count_ - 1, exact + static_cast<std::int32_t>(share * (count_ - exact) + 1e-9));
    }
  }
  Index operator()(Index distance) const {
    if (is_one_sided_) return table_[std::clamp<Index>(-distance, 0, limit_)];
    return table_[std::min(distance < 0 ? -distance : distance, limit_)] + (distance > 0 ? side_ : 0);
  }

 private:
  std::int32_t side_, count_;
  Index limit_;
  std::int32_t* table_;
  bool is_one_sided_, is_used_;
};

/// The change of the scores of head n in batch entry b. Scores are [rows][group]; KeyLanes: rows are queries, lanes
/// keys; else rows are keys, lanes queries. Hidden scores become -infinity, NaN or not.
template <class E, bool KeyLanes>
class ScoreChange {
 public:
  using T = Accum<E>;

  ScoreChange(const AttentionProblem<E>& problem, const RelativeBuckets& relative_buckets, Index batch_entry,
              Index head)
      : p(problem), buckets(relative_buckets), b(batch_entry), n(head) {}

  /// For rows and lanes from (row, lane) on. `derivative` (if there is a soft cap, and it is not null) becomes that of
  /// the changed scores.
  void operator()(T* scores, T* derivative, Index row, Index rows, Index lane, Index lanes) const {
    if (p.soft_cap > 0) squash(scores, derivative, rows);
    if ((p.alibi && !p.alibi_by_key) || p.buckets > 0) add_by_distance(scores, row, rows, lane);
    if (p.alibi_by_key) add_by_key(scores, row, rows, lane);
    if (p.bias != nullptr) add_bias(scores, row, rows, lane, lanes);
    if (p.query_segments != nullptr) hide_other_segments(scores, row, rows, lane, lanes);
  }

 private:
  static constexpr int group = Vector<T>::group;
  static constexpr T infinity = std::numeric_limits<T>::infinity();

  void squash(T* scores, T* derivative, Index rows) const {
    const T cap = static_cast<T>(p.soft_cap), inverse = static_cast<T>(1 / p.soft_cap);
    for (Index i = 0; i < rows; ++i) {
      T bent[group];
      for (int j = 0; j < group; ++j) bent[j] = fast_tanh(scores[i * group + j] * inverse);
      for (int j = 0; j < group; ++j) scores[i * group + j] = cap * bent[j];
      if (derivative == nullptr) continue;
      for (int j = 0; j < group; ++j) derivative[i * group + j] = (1 - bent[j]) * (1 + bent[j]);
    }
  }

  /// A function of the distance has one value a diagonal.
  void add_by_distance(T* scores, Index row, Index rows, Index lane) const {
    T diagonals[tile_rows + group];
    const double slope = p.alibi && !p.alibi_by_key ? alibi_slope(n, p.heads) : 0;
    for (Index i = 0; i < rows + group - 1; ++i) {
      const Index ahead = lane - row + i - (rows - 1);  // lane less row
      const Index distance = (KeyLanes ? ahead : -ahead) - p.offset_of(b);
      T value = static_cast<T>(-slope * static_cast<double>(distance < 0 ? -distance : distance));
      if (p.buckets > 0) value += p.relative_bias[buckets(distance) * p.heads + n];
      diagonals[i] = value;
    }
    for (Index i = 0; i < rows; ++i)
      for (int j = 0; j < group; ++j) scores[i * group + j] += diagonals[rows - 1 - i + j];
  }

  void add_by_key(T* scores, Index row, Index rows, Index lane) const {
    const auto rounded = [](double x) { return widen(narrow(static_cast<float>(x))); };
    const auto of_key = [&, slope = rounded(alibi_slope(n, p.heads))](Index key) {
      const auto place = static_cast<double>(p.first_key + key);
      return static_cast<T>(rounded(slope * rounded(place))) * static_cast<T>(p.scale);
    };
    T lanes[group] = {};
    for (int j = 0; KeyLanes && j < group; ++j) lanes[j] = of_key(lane + j);
    for (Index i = 0; i < rows; ++i) {
      const T of_row = KeyLanes ? T{0} : of_key(row + i);
      for (int j = 0; j < group; ++j) scores[i * group + j] += KeyLanes ? lanes[j] : of_row;
    }
  }

  void add_bias(T* scores, Index row, Index rows, Index lane, Index lanes) const {
    const auto [batches, heads, queries, keys] = p.bias_sizes;
    const Index query_step = queries == 1 ? 0 : keys, key_step = keys == 1 ? 0 : 1;
    const Index row_step = KeyLanes ? query_step : key_step, lane_step = KeyLanes ? key_step : query_step;
    const T* bias = p.bias + ((batches == 1 ? 0 : b) * heads + (heads == 1 ? 0 : n)) * queries * keys;
    for (Index i = 0; i < rows; ++i) {
      const T* from = bias + (row + i) * row_step + lane * lane_step;
      T* to = scores + i * group;
      for (Index j = 0; j < lanes; ++j) {
        const T value = from[j * lane_step];
        to[j] = value == -infinity ? -infinity : to[j] + value;
      }
    }
  }

  void hide_other_segments(T* scores, Index row, Index rows, Index lane, Index lanes) const {
    const std::int32_t* queries = p.query_segments + b * p.query_length;
    const std::int32_t* keys = p.key_segments + b * p.key_length;
    const std::int32_t *row_ids = (KeyLanes ? queries : keys) + row, *lane_ids = (KeyLanes ? keys : queries) + lane;
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < lanes; ++j)
        scores[i * group + j] = lane_ids[j] == row_ids[i] ? scores[i * group + j] : -infinity;
  }

  const AttentionProblem<E>& p;
  const RelativeBuckets& buckets;
  Index b, n;
};

}}}  // namespace remat::kernels::attention
