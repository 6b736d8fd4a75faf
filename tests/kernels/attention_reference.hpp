// Attention by its formula: all of [T, S], in double, every option in the plainest way. And a call of the kernel.
#pragma once

#include <omp.h>

#include <array>
#include <cfenv>
#include <cmath>
#include <core/aligned.hpp>
#include <cstring>
#include <limits>
#include <remat/core/eigen.hpp>
#include <remat/kernels/attention.hpp>
#include <remat/kernels/compiled.hpp>
#include <string>
#include <type_traits>
#include <vector>

namespace remat_test {

using remat::Index;

inline constexpr double infinity = std::numeric_limits<double>::infinity();

inline std::size_t count(Index n) { return static_cast<std::size_t>(n); }

struct AttentionCase {
  Index batch = 2, query_length = 7, key_length = 7, heads = 2, kv_heads = 2, head_dims = 5;
  bool causal = true;
  Index offset = 0;
  double dropout = 0;
  bool fused = false;  // q, k and v are columns of one [B, T, (N + 2 K) H]
  Index window = 0;
  double soft_cap = 0;
  Index query_chunk = 0, key_chunk = 0;
  double rotary_base = 0;
  Index rotary_dims = 0, key_position = 0;
  bool alibi = false;
  bool padding = false, prefix = false, segments = false;
  std::array<int, 4> bias{};  // which axes are whole; all 0 and `bias_hides` false: no bias
  bool bias_hides = false;    // some of it is -infinity
  Index buckets = 0, max_distance = 20;
};

/// An option, or a few that go together.
struct AttentionKind {
  std::string name;
  void (*apply)(AttentionCase&);
};

inline const AttentionKind attention_kinds[] = {
    {"causal", [](AttentionCase& c) { c.causal = true; }},
    {"window", [](AttentionCase& c) { c.window = 6; }},
    {"wide window", [](AttentionCase& c) { c.window = 40; }},
    {"offset", [](AttentionCase& c) { c.offset += 3; }},
    {"padding", [](AttentionCase& c) { c.padding = true; }},
    {"prefix", [](AttentionCase& c) { c.causal = c.prefix = true; }},
    {"segments", [](AttentionCase& c) { c.segments = true; }},
    {"soft cap", [](AttentionCase& c) { c.soft_cap = 0.8; }},
    {"alibi", [](AttentionCase& c) { c.alibi = true; }},
    {"bias",
     [](AttentionCase& c) {
       c.bias = {1, 1, 1, 1};
     }},
    {"hiding bias",
     [](AttentionCase& c) {
       c.bias = {0, 1, 1, 1}, c.bias_hides = true;
     }},
    {"relative bias", [](AttentionCase& c) { c.buckets = 8; }},
    {"rotary", [](AttentionCase& c) { c.rotary_base = 100, c.rotary_dims = 4, c.key_position = 1020; }},
    {"dropout", [](AttentionCase& c) { c.dropout = 0.3; }},
    {"fused", [](AttentionCase& c) { c.fused = c.query_length == c.key_length; }},
};

/// Inputs, outputs and gradients of one call.
template <class T>
struct AttentionCall {
  using Sum = remat::Accum<T>;
  remat::kernels::AttentionProblem<T> problem;
  AlignedVector<T> input, gradient;  // q, k and v, and theirs: one array, so that the fused layout is only strides
  Index k_at = 0, v_at = 0;
  AlignedVector<T> out, dout;
  std::vector<std::int32_t> key_lengths, prefix_lengths, query_segments, key_segments;
  AlignedVector<Sum> log_sum_exp, rest, bias, dbias, relative_bias, drelative_bias;

  explicit AttentionCall(const AttentionCase& c) {
    auto& p = problem;
    p.batch = c.batch, p.query_length = c.query_length, p.key_length = c.key_length;
    p.heads = c.heads, p.kv_heads = c.kv_heads, p.head_dims = c.head_dims;
    p.causal = c.causal, p.offset = c.offset, p.window = c.window;
    p.scale = c.head_dims == 0 ? 1 : 1 / std::sqrt(static_cast<double>(c.head_dims));
    p.dropout = {.stream = {.seed = 5, .step = 3, .site = 9}, .rate = c.dropout};
    p.soft_cap = c.soft_cap, p.alibi = c.alibi;
    p.query_chunk = c.query_chunk, p.key_chunk = c.key_chunk;
    p.rotary_base = c.rotary_base, p.rotary_dims = c.rotary_dims, p.key_position = c.key_position;
    const Index q_width = c.heads * c.head_dims, k_width = c.kv_heads * c.head_dims;
    p.q_token = c.fused ? q_width + 2 * k_width : q_width;
    p.k_token = p.v_token = c.fused ? q_width + 2 * k_width : k_width;
    p.out_token = q_width;
    p.q_batch = p.q_token * c.query_length;
    p.k_batch = p.v_batch = p.k_token * c.key_length;
    p.out_batch = p.out_token * c.query_length;
    k_at = c.fused ? q_width : c.batch * p.q_batch;
    v_at = c.fused ? q_width + k_width : k_at + c.batch * p.k_batch;
    const Index inputs = c.fused ? c.batch * p.q_batch : v_at + c.batch * p.v_batch;
    fill(input, inputs, 1);
    fill(dout, c.batch * p.out_batch, 2);
    // NaN everywhere first: what is not written shows.
    gradient.assign(count(inputs), std::numeric_limits<T>::quiet_NaN());
    out.assign(count(c.batch * p.out_batch), std::numeric_limits<T>::quiet_NaN());
    log_sum_exp.assign(count(c.batch * c.heads * c.query_length), std::numeric_limits<Sum>::quiet_NaN());
    rest = log_sum_exp;
    make_masks(c);
  }
  AttentionCall(const AttentionCall&) = delete;
  AttentionCall& operator=(const AttentionCall&) = delete;

  /// Values that float holds exactly, so that float and double see one problem.
  template <class U>
  static void fill(AlignedVector<U>& buffer, Index size, std::uint32_t site) {
    const remat::RandomStream stream{.seed = 1, .step = 0, .site = site};
    buffer.resize(count(size));
    for (std::size_t i = 0; i < buffer.size(); ++i)
      buffer[i] = static_cast<U>(static_cast<float>(stream.normal(static_cast<std::uint64_t>(i))));
  }

  void make_masks(const AttentionCase& c) {
    auto& p = problem;
    const auto id = [](Index i, Index length) { return static_cast<std::int32_t>(4 * i / std::max<Index>(1, length)); };
    for (Index b = 0; b < c.batch; ++b) {
      key_lengths.push_back(static_cast<std::int32_t>(b % 3 == 0   ? c.key_length * 2 / 3
                                                      : b % 3 == 1 ? c.key_length
                                                                   : 0));
      prefix_lengths.push_back(static_cast<std::int32_t>(b % 2 == 0 ? c.key_length / 2 : 0));
      // Packed sequences in the first entry, ids in no order in the others; the last queries' id has no key.
      for (Index t = 0; t < c.query_length; ++t)
        query_segments.push_back(b == 0 ? id(t, c.query_length) : static_cast<std::int32_t>(t * 7 % 3));
      for (Index s = 0; s < c.key_length; ++s)
        key_segments.push_back(b == 0 ? std::min(2, id(s + 3, c.key_length)) : static_cast<std::int32_t>(s * 5 % 4));
    }
    if (c.padding) p.key_lengths = key_lengths.data();
    if (c.prefix) p.prefix_lengths = prefix_lengths.data();
    if (c.segments) p.query_segments = query_segments.data(), p.key_segments = key_segments.data();
    const Index full[] = {c.batch, c.heads, c.query_length, c.key_length};
    Index size = 1;
    bool any = c.bias_hides;
    for (int i = 0; i < 4; ++i) {
      const bool whole = c.bias[count(i)] != 0;
      p.bias_sizes[i] = whole ? full[i] : 1;
      size *= p.bias_sizes[i];
      any = any || whole;
    }
    if (any) {
      fill(bias, size, 3);
      if (c.bias_hides)
        for (std::size_t i = 0; i < bias.size(); ++i)
          if (i * 7 % 11 < 4) bias[i] = -std::numeric_limits<Sum>::infinity();
      dbias.assign(bias.size(), std::numeric_limits<Sum>::quiet_NaN());
      p.bias = bias.data();
    }
    p.buckets = c.buckets, p.max_distance = c.max_distance;
    fill(relative_bias, c.buckets * c.heads, 4);
    drelative_bias.assign(relative_bias.size(), std::numeric_limits<Sum>::quiet_NaN());
    p.relative_bias = relative_bias.data();
  }

  void forward() {
    AlignedVector<std::byte> scratch(attention_forward_scratch(problem));
    attention_forward(problem, input.data(), input.data() + k_at, input.data() + v_at, out.data(), log_sum_exp.data(),
                      scratch.data(), rest.data());
  }
  remat::kernels::AttentionGradients<T> gradients() {
    return {.q = gradient.data(),
            .k = gradient.data() + k_at,
            .v = gradient.data() + v_at,
            .bias = problem.bias == nullptr ? nullptr : dbias.data(),
            .relative_bias = problem.buckets == 0 ? nullptr : drelative_bias.data()};
  }
  void backward(const remat::kernels::AttentionGradients<T>& to) {
    AlignedVector<std::byte> scratch(attention_backward_scratch(problem));
    attention_backward(problem, input.data(), input.data() + k_at, input.data() + v_at, out.data(), log_sum_exp.data(),
                       dout.data(), to, scratch.data(), rest.data());
  }
  void run() {
    forward();
    backward(gradients());
  }
};

/// [query blocks, key blocks] of the first batch entry: a 1 where `run(call)` multiplies any query with any key,
/// whether or not the product is then hidden. One block of queries and one of keys are so large that their products
/// overflow, all else is 0, and the processor remembers an overflow.
template <class T, class Run>
std::vector<std::uint8_t> multiplied_blocks(AttentionCall<T>& call, Index query_chunk, Index key_chunk, Run&& run) {
  const auto& p = call.problem;
  const T huge = static_cast<T>(std::is_same_v<T, double> ? 1e200 : 1e30);
  const auto set = [&](Index start, Index token, Index width, Index length, Index first, Index chunk, T value) {
    for (Index i = first; i < std::min(first + chunk, length); ++i)
      std::fill_n(call.input.data() + start + i * token, width, value);
  };
  const Index q_width = p.heads * p.head_dims, k_width = p.kv_heads * p.head_dims;
  set(0, p.q_token, q_width, p.query_length, 0, p.query_length, T{0});
  set(call.k_at, p.k_token, k_width, p.key_length, 0, p.key_length, T{0});
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // each thread remembers its own
  std::vector<std::uint8_t> marks;
  for (Index t = 0; t < p.query_length; t += query_chunk)
    for (Index s = 0; s < p.key_length; s += key_chunk) {
      set(0, p.q_token, q_width, p.query_length, t, query_chunk, huge);
      set(call.k_at, p.k_token, k_width, p.key_length, s, key_chunk, huge);
      std::feclearexcept(FE_ALL_EXCEPT);
      asm volatile("" ::: "memory");
      run(call);
      asm volatile("" ::: "memory");
      marks.push_back(std::fetestexcept(FE_OVERFLOW) != 0 ? 1 : 0);
      set(0, p.q_token, q_width, p.query_length, t, query_chunk, T{0});
      set(call.k_at, p.k_token, k_width, p.key_length, s, key_chunk, T{0});
    }
  omp_set_num_threads(threads);
  return marks;
}

/// What the options say about one pair.
struct NaiveRules {
  const remat::kernels::AttentionProblem<double>& p;

  bool sees(Index b, Index n, Index t, Index s) const {
    const Index position = t + p.offset;
    if (p.causal && s > position && !(p.prefix_lengths != nullptr && s < p.prefix_lengths[b])) return false;
    if (p.window > 0 && std::abs(position - s) >= p.window) return false;
    if (p.key_lengths != nullptr && s >= p.key_lengths[b]) return false;
    if (p.query_segments != nullptr && p.query_segments[b * p.query_length + t] != p.key_segments[b * p.key_length + s])
      return false;
    return p.bias == nullptr || p.bias[bias_at(b, n, t, s)] != -infinity;
  }
  Index bias_at(Index b, Index n, Index t, Index s) const {
    const auto at = [&](Index i, int axis) { return p.bias_sizes[axis] == 1 ? 0 : i; };
    return ((at(b, 0) * p.bias_sizes[1] + at(n, 1)) * p.bias_sizes[2] + at(t, 2)) * p.bias_sizes[3] + at(s, 3);
  }
  /// [query blocks, key blocks] of the first batch entry and head: a 1 where any pair is seen.
  std::vector<std::uint8_t> seen_blocks(Index query_chunk, Index key_chunk) const {
    const Index columns = (p.key_length + key_chunk - 1) / key_chunk;
    std::vector<std::uint8_t> marks(count((p.query_length + query_chunk - 1) / query_chunk * columns));
    for (Index t = 0; t < p.query_length; ++t)
      for (Index s = 0; s < p.key_length; ++s)
        if (sees(0, 0, t, s)) marks[count(t / query_chunk * columns + s / key_chunk)] = 1;
    return marks;
  }
  double slope(Index n) const {
    double power = 1;
    while (2 * power <= static_cast<double>(p.heads)) power *= 2;
    const auto i = static_cast<double>(n);
    return i < power ? std::pow(2, -8 / power * (i + 1)) : std::pow(2, -4 / power * (2 * (i - power) + 1));
  }
  /// In float, as the published code computes it.
  Index bucket(Index t, Index s) const {
    const Index distance = s - t - p.offset;
    Index buckets = p.buckets, result = 0, n = std::max<Index>(0, -distance);
    if (!p.causal) {
      buckets /= 2;
      result = distance > 0 ? buckets : 0;
      n = std::abs(distance);
    }
    const Index exact = buckets / 2;
    if (n < exact) return result + n;
    const float share = std::log(static_cast<float>(n) / static_cast<float>(exact)) /
                        static_cast<float>(std::log(static_cast<double>(p.max_distance) / static_cast<double>(exact)));
    return result + std::min(buckets - 1, exact + static_cast<Index>(share * static_cast<float>(buckets - exact)));
  }
  /// What is added to the score.
  double added(Index b, Index n, Index t, Index s) const {
    double sum = 0;
    if (p.alibi) sum -= slope(n) * static_cast<double>(std::abs(t + p.offset - s));
    if (p.bias != nullptr) sum += p.bias[bias_at(b, n, t, s)];
    if (p.buckets > 0) sum += p.relative_bias[bucket(t, s) * p.heads + n];
    return sum;
  }
  /// Turns a head's vector by `direction` times the angles of `position`.
  void rotate(double* x, Index position, double direction) const {
    if (p.rotary_base == 0) return;
    const Index dims = p.rotary_dims > 0 ? p.rotary_dims : p.head_dims, half = dims / 2;
    for (Index j = 0; j < half; ++j) {
      const double angle = direction * static_cast<double>(position) *
                           std::pow(p.rotary_base, -2 * static_cast<double>(j) / static_cast<double>(dims));
      const double a = x[j], b = x[j + half];
      x[j] = a * std::cos(angle) - b * std::sin(angle);
      x[j + half] = b * std::cos(angle) + a * std::sin(angle);
    }
  }
};

/// The same by the formula.
inline void naive(AttentionCall<double>& a) {
  const auto& p = a.problem;
  const NaiveRules rules{p};
  const Index h = p.head_dims;
  AlignedVector<double> input = a.input;  // rotated
  double *q = input.data(), *k = q + a.k_at, *v = q + a.v_at;
  std::fill(a.gradient.begin(), a.gradient.end(), 0.0);
  std::fill(a.dbias.begin(), a.dbias.end(), 0.0);
  std::fill(a.drelative_bias.begin(), a.drelative_bias.end(), 0.0);
  double *dq = a.gradient.data(), *dk = dq + a.k_at, *dv = dq + a.v_at;
  const auto rotate_all = [&](double* queries, double* keys, double direction) {
    for (Index b = 0; b < p.batch; ++b) {
      for (Index t = 0; t < p.query_length; ++t)
        for (Index n = 0; n < p.heads; ++n)
          rules.rotate(queries + b * p.q_batch + t * p.q_token + n * h, p.key_position + p.offset + t, direction);
      for (Index s = 0; s < p.key_length; ++s)
        for (Index n = 0; n < p.kv_heads; ++n)
          rules.rotate(keys + b * p.k_batch + s * p.k_token + n * h, p.key_position + s, direction);
    }
  };
  rotate_all(q, k, 1);
  const Index rows = p.dropout_query_length > 0 ? p.dropout_query_length : p.query_length;
  for (Index b = 0; b < p.batch; ++b)
    for (Index n = 0; n < p.heads; ++n)
      for (Index t = 0; t < p.query_length; ++t) {
        const Index kv = n / (p.heads / p.kv_heads), row = (b * p.heads + n) * p.query_length + t;
        const Index q_at = b * p.q_batch + t * p.q_token + n * h, out_at = b * p.out_batch + t * p.out_token + n * h;
        const auto k_row = [&](Index s) { return b * p.k_batch + s * p.k_token + kv * h; };
        const auto v_row = [&](Index s) { return b * p.v_batch + s * p.v_token + kv * h; };
        const auto factor = [&](Index s) {
          const Index at = ((b * p.heads + n) * rows + p.dropout_first_query + t) * p.key_length + s;
          return p.dropout.active() ? p.dropout.factor<double>(static_cast<std::uint64_t>(at)) : 1.0;
        };
        std::vector<double> weight(count(p.key_length)), slope = weight, bent = weight;
        std::vector<Index> seen;
        double top = -infinity, sum = 0, mean = 0;
        for (Index s = 0; s < p.key_length; ++s) {
          if (!rules.sees(b, n, t, s)) continue;
          seen.push_back(s);
          double score = 0;
          for (Index i = 0; i < h; ++i) score += p.scale * q[q_at + i] * k[k_row(s) + i];
          if (p.soft_cap > 0) score = p.soft_cap * (bent[count(s)] = std::tanh(score / p.soft_cap));
          weight[count(s)] = score + rules.added(b, n, t, s);
          top = std::max(top, weight[count(s)]);
        }
        for (const Index s : seen) sum += weight[count(s)] = std::exp(weight[count(s)] - top);
        for (Index i = 0; i < h; ++i) a.out[count(out_at + i)] = 0;
        for (const Index s : seen) {
          weight[count(s)] /= sum;
          for (Index i = 0; i < h; ++i) {
            a.out[count(out_at + i)] += weight[count(s)] * factor(s) * v[v_row(s) + i];
            slope[count(s)] += factor(s) * a.dout[count(out_at + i)] * v[v_row(s) + i];
            dv[v_row(s) + i] += weight[count(s)] * factor(s) * a.dout[count(out_at + i)];
          }
          mean += weight[count(s)] * slope[count(s)];
        }
        for (const Index s : seen) {
          const double changed = weight[count(s)] * (slope[count(s)] - mean);
          if (p.bias != nullptr) a.dbias[count(rules.bias_at(b, n, t, s))] += changed;
          if (p.buckets > 0) a.drelative_bias[count(rules.bucket(t, s) * p.heads + n)] += changed;
          const double score = p.scale * changed * (1 - bent[count(s)] * bent[count(s)]);
          for (Index i = 0; i < h; ++i) {
            dq[q_at + i] += score * k[k_row(s) + i];
            dk[k_row(s) + i] += score * q[q_at + i];
          }
        }
        a.log_sum_exp[count(row)] = seen.empty() ? -infinity : top + std::log(sum);
      }
  rotate_all(dq, dk, -1);
}

/// Greatest |a - b| over the greatest |b|, or over `least` if that is more; equal infinities agree, NaN never does.
template <class A, class B>
double distance(const A& a, const B& b, double least = 1e-3) {
  if (a.size() != b.size()) return infinity;
  double error = 0, size = least;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    if (x == y) continue;
    if (!std::isfinite(x - y)) return infinity;
    error = std::max(error, std::abs(x - y));
    size = std::max(size, std::abs(y));
  }
  return error / size;
}

template <class T>
bool same_bits(const AlignedVector<T>& a, const AlignedVector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// The greatest distance of anything that a call writes.
template <class T>
double distance_of_calls(const AttentionCall<T>& a, const AttentionCall<double>& b, double least = 1e-3) {
  return std::max({distance(a.out, b.out, least), distance(a.log_sum_exp, b.log_sum_exp, least),
                   distance(a.gradient, b.gradient, least), distance(a.dbias, b.dbias, least),
                   distance(a.drelative_bias, b.drelative_bias, least)});
}

/// Runs `body` with so many threads, then restores the setting.
template <class F>
void with_threads(int threads, F&& body) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  body();
  omp_set_num_threads(before);
}

}  // namespace remat_test
