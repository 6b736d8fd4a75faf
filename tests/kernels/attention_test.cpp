// The fused attention against the formula written out in double.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <remat/kernels/attention.hpp>
#include <vector>

namespace {

using remat::Index;

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <class U>
  explicit Aligned(const Aligned<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, std::size_t) { ::operator delete (p, std::align_val_t{64}); }
  friend bool operator==(Aligned, Aligned) { return true; }
};
template <class T>
using Buffer = std::vector<T, Aligned<T>>;

std::size_t count(Index n) { return static_cast<std::size_t>(n); }

struct Case {
  Index batch = 2, query_length = 7, key_length = 7, heads = 2, kv_heads = 2, head_dims = 5;
  bool causal = true;
  Index offset = 0;
  double dropout = 0;
  bool fused = false;  // q, k and v are columns of one [B, T, (N + 2 K) H]
};

/// Inputs, outputs and gradients of one call.
template <class T>
struct Attention {
  remat::kernels::AttentionProblem<T> problem;
  Buffer<T> input, gradient;  // q, k and v, and theirs: one array, so that the fused layout is only other strides
  Index k_at = 0, v_at = 0;
  Buffer<T> out, dout, log_sum_exp;

  explicit Attention(const Case& c) {
    auto& p = problem;
    p.batch = c.batch, p.query_length = c.query_length, p.key_length = c.key_length;
    p.heads = c.heads, p.kv_heads = c.kv_heads, p.head_dims = c.head_dims;
    p.causal = c.causal, p.offset = c.offset;
    p.scale = c.head_dims == 0 ? 1 : 1 / std::sqrt(static_cast<double>(c.head_dims));
    p.dropout = {.stream = {.seed = 5, .step = 3, .site = 9}, .rate = c.dropout};
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
    log_sum_exp.assign(count(c.batch * c.heads * c.query_length), std::numeric_limits<T>::quiet_NaN());
  }

  /// Values that float holds exactly, so that float and double see one problem.
  static void fill(Buffer<T>& buffer, Index size, std::uint32_t site) {
    const remat::RandomStream stream{.seed = 1, .step = 0, .site = site};
    buffer.resize(count(size));
    for (std::size_t i = 0; i < buffer.size(); ++i)
      buffer[i] = static_cast<T>(static_cast<float>(stream.normal(static_cast<std::uint64_t>(i))));
  }

  void forward() {
    Buffer<std::byte> scratch(attention_forward_scratch(problem));
    attention_forward(problem, input.data(), input.data() + k_at, input.data() + v_at, out.data(), log_sum_exp.data(),
                      scratch.data());
  }
  void backward(bool dq = true, bool dk = true, bool dv = true) {
    Buffer<std::byte> scratch(attention_backward_scratch(problem));
    attention_backward(problem, input.data(), input.data() + k_at, input.data() + v_at, out.data(), log_sum_exp.data(),
                       dout.data(), dq ? gradient.data() : nullptr, dk ? gradient.data() + k_at : nullptr,
                       dv ? gradient.data() + v_at : nullptr, scratch.data());
  }
  void run() {
    forward();
    backward();
  }
};

/// The same by the formula, with all of [T, S], in double.
void naive(Attention<double>& a) {
  const auto& p = a.problem;
  const Index h = p.head_dims, length = p.key_length;
  const double *q = a.input.data(), *k = q + a.k_at, *v = q + a.v_at;
  std::fill(a.gradient.begin(), a.gradient.end(), 0.0);
  double *dq = a.gradient.data(), *dk = dq + a.k_at, *dv = dq + a.v_at;
  for (Index b = 0; b < p.batch; ++b)
    for (Index n = 0; n < p.heads; ++n)
      for (Index t = 0; t < p.query_length; ++t) {
        const Index kv = n / (p.heads / p.kv_heads),
                    seen = p.causal ? std::clamp<Index>(t + p.offset + 1, 0, length) : length;
        const Index row = (b * p.heads + n) * p.query_length + t;
        const Index q_at = b * p.q_batch + t * p.q_token + n * h, out_at = b * p.out_batch + t * p.out_token + n * h;
        const auto k_row = [&](Index s) { return b * p.k_batch + s * p.k_token + kv * h; };
        const auto v_row = [&](Index s) { return b * p.v_batch + s * p.v_token + kv * h; };
        const auto factor = [&](Index s) {
          return p.dropout.active() ? p.dropout.factor<double>(static_cast<std::uint64_t>(row * length + s)) : 1.0;
        };
        std::vector<double> weight(count(seen)), slope(count(seen));
        double top = -infinity, sum = 0, mean = 0;
        for (Index s = 0; s < seen; ++s) {
          for (Index i = 0; i < h; ++i) weight[count(s)] += p.scale * q[q_at + i] * k[k_row(s) + i];
          top = std::max(top, weight[count(s)]);
        }
        for (double& w : weight) sum += w = std::exp(w - top);
        for (Index i = 0; i < h; ++i) a.out[count(out_at + i)] = 0;
        for (Index s = 0; s < seen; ++s) {
          weight[count(s)] /= sum;
          for (Index i = 0; i < h; ++i) {
            a.out[count(out_at + i)] += weight[count(s)] * factor(s) * v[v_row(s) + i];
            slope[count(s)] += factor(s) * a.dout[count(out_at + i)] * v[v_row(s) + i];
            dv[v_row(s) + i] += weight[count(s)] * factor(s) * a.dout[count(out_at + i)];
          }
          mean += weight[count(s)] * slope[count(s)];
        }
        for (Index s = 0; s < seen; ++s) {
          const double score = p.scale * weight[count(s)] * (slope[count(s)] - mean);
          for (Index i = 0; i < h; ++i) {
            dq[q_at + i] += score * k[k_row(s) + i];
            dk[k_row(s) + i] += score * q[q_at + i];
          }
        }
        a.log_sum_exp[count(row)] = seen == 0 ? -infinity : top + std::log(sum);
      }
}

/// Greatest |a - b| over the greatest |b|, or |b| alone where that is below 1; equal infinities agree, NaN never does.
template <class A, class B>
double distance(const A& a, const B& b) {
  double error = 0, size = 1;
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
bool same_bits(const Buffer<T>& a, const Buffer<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Double agrees with the formula to 1e-12, float with double to 2e-6.
void check(const Case& c) {
  SCOPED_TRACE(testing::Message() << "B " << c.batch << " T " << c.query_length << " S " << c.key_length << " N "
                                  << c.heads << " K " << c.kv_heads << " H " << c.head_dims << " causal " << c.causal
                                  << " offset " << c.offset << " dropout " << c.dropout << " fused " << c.fused);
  Attention<double> expected(c), actual(c);
  naive(expected);
  actual.run();
  EXPECT_LE(distance(actual.out, expected.out), 1e-12);
  EXPECT_LE(distance(actual.log_sum_exp, expected.log_sum_exp), 1e-12);
  EXPECT_LE(distance(actual.gradient, expected.gradient), 1e-12);
  Attention<float> single(c);
  single.run();
  EXPECT_LE(distance(single.out, expected.out), 2e-6);
  EXPECT_LE(distance(single.log_sum_exp, expected.log_sum_exp), 2e-6);
  EXPECT_LE(distance(single.gradient, expected.gradient), 2e-6);
}

/// Runs `body` with so many threads, then restores the setting.
template <class F>
void with_threads(int threads, F&& body) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  body();
  omp_set_num_threads(before);
}

TEST(Attention, IsTheFormulaAtEveryLength) {
  for (const Index length : {1, 7, 63, 64, 65, 131})
    for (const bool causal : {false, true}) check({.query_length = length, .key_length = length, .causal = causal});
}

TEST(Attention, IsTheFormulaAtEveryHeadWidth) {
  for (const Index width : {1, 5, 16, 32, 40, 64, 80})
    for (const bool causal : {false, true})
      check({.batch = 1, .query_length = 67, .key_length = 67, .head_dims = width, .causal = causal});
}

TEST(Attention, GroupsQueryHeadsOverKeyHeads) {
  for (const Index kv_heads : {8, 2, 1})
    for (const bool causal : {false, true})
      for (const Index batch : {1, 5})  // either side of the switch between the two backward passes
        check(
            {.batch = batch, .query_length = 70, .key_length = 70, .heads = 8, .kv_heads = kv_heads, .causal = causal});
}

TEST(Attention, TakesUnequalLengthsByPosition) {
  for (const Index heads : {1, 8})
    for (const auto& [queries, keys] : {std::pair<Index, Index>{1, 130}, {5, 64}, {64, 100}, {70, 200}, {131, 65}})
      for (const Index offset : {keys - queries, Index{0}, Index{3}, Index{-2}, Index{-70}})
        check({.batch = 1,
               .query_length = queries,
               .key_length = keys,
               .heads = heads,
               .kv_heads = heads,
               .offset = offset});
}

TEST(Attention, ReadsAFusedProjectionInPlace) {
  for (const Index kv_heads : {4, 2, 1})
    check({.query_length = 70, .key_length = 70, .heads = 4, .kv_heads = kv_heads, .head_dims = 24, .fused = true});
}

TEST(Attention, DropsByTheMaskOfTheElementsCoordinate) {
  for (const Index batch : {1, 5})
    for (const Index length : {3, 64, 70, 131})  // rows that start on a Philox block, and rows that do not
      for (const bool causal : {false, true})
        check({.batch = batch,
               .query_length = length,
               .key_length = length,
               .heads = 4,
               .causal = causal,
               .dropout = 0.3});
}

TEST(Attention, DropsTheShareItWasAsked) {
  // Equal scores and values of one: a row's output is the share it kept, over 1 - rate.
  Attention<float> a({.batch = 1,
                      .query_length = 200,
                      .key_length = 500,
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dims = 1,
                      .causal = false,
                      .dropout = 0.25});
  std::fill(a.input.begin(), a.input.begin() + a.v_at, 0.0F);
  std::fill(a.input.begin() + a.v_at, a.input.end(), 1.0F);
  a.forward();
  double mean = 0;
  for (const float x : a.out) mean += static_cast<double>(x) / 200;
  EXPECT_NEAR(mean, 1, 5 * std::sqrt(0.25 / 0.75 / (200 * 500)));
}

TEST(Attention, DoesNotDependOnTheNumberOfThreads) {
  for (const Case& c : {Case{.batch = 1,
                       .query_length = 300,
                       .key_length = 300,
                       .heads = 4,
                       .kv_heads = 1,
                       .head_dims = 32,
                       .dropout = 0.1},
                        Case{.batch = 3,
                        .query_length = 150,
                        .key_length = 150,
                        .heads = 8,
                        .kv_heads = 4,
                        .head_dims = 20,
                        .dropout = 0.1}}) {
    Attention<float> one(c), again(c);
    with_threads(1, [&] { one.run(), again.run(); });
    EXPECT_TRUE(same_bits(one.out, again.out) && same_bits(one.gradient, again.gradient));
    for (const int threads : {2, 3}) {
      Attention<float> many(c);
      with_threads(threads, [&] { many.run(); });
      EXPECT_TRUE(same_bits(one.out, many.out)) << threads;
      EXPECT_TRUE(same_bits(one.log_sum_exp, many.log_sum_exp)) << threads;
      EXPECT_TRUE(same_bits(one.gradient, many.gradient)) << threads;
    }
    Attention<float> nested(c);
#pragma omp parallel num_threads(2)
    {
#pragma omp single
      nested.run();
    }
    EXPECT_TRUE(same_bits(one.gradient, nested.gradient));
  }
}

TEST(Attention, GivesZerosToAQueryThatSeesNothing) {
  for (const Index heads : {1, 8}) {
    Attention<float> a(
        {.batch = 1, .query_length = 70, .key_length = 90, .heads = heads, .kv_heads = heads, .offset = -66});
    a.run();
    const auto& p = a.problem;
    for (Index t = 0; t < 66; ++t)
      for (Index n = 0; n < heads; ++n) {
        EXPECT_EQ(a.log_sum_exp[count(n * 70 + t)], -std::numeric_limits<float>::infinity());
        for (Index i = 0; i < p.head_dims; ++i) {
          EXPECT_EQ(a.out[count(t * p.out_token + n * p.head_dims + i)], 0);
          EXPECT_EQ(a.gradient[count(t * p.q_token + n * p.head_dims + i)], 0);
        }
      }
    for (const float x : a.gradient) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(Attention, DoesNotLeakNaNFromMaskedPlaces) {
  // Token 40 is NaN in q, k, v and dout: only queries from 40 on may notice.
  for (const Index heads : {1, 8}) {
    const Case c{.batch = 1, .query_length = 100, .key_length = 100, .heads = heads, .kv_heads = heads, .fused = true};
    Attention<float> clean(c), dirty(c);
    const Index width = dirty.problem.q_token, out_width = dirty.problem.out_token;
    std::fill_n(dirty.input.begin() + 40 * width, width, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(dirty.dout.begin() + 40 * out_width, out_width, std::numeric_limits<float>::quiet_NaN());
    clean.run(), dirty.run();
    for (Index t = 0; t < 100; ++t)
      for (Index i = 0; i < out_width; ++i) {
        const auto at = count(t * out_width + i), q_at = count(t * width + i);
        if (t < 40) {
          EXPECT_NEAR(dirty.out[at], clean.out[at], 1e-6);
          EXPECT_NEAR(dirty.gradient[q_at], clean.gradient[q_at], 1e-5);
        } else {
          EXPECT_TRUE(std::isnan(dirty.out[at]));
          EXPECT_TRUE(std::isnan(dirty.gradient[q_at]));
        }
      }
  }
}

TEST(Attention, KeepsNaNQueriesAwayFromKeysTheyDoNotSee) {
  for (const Index heads : {1, 8}) {
    const Case c{.batch = 1, .query_length = 100, .key_length = 100, .heads = heads, .kv_heads = heads};
    Attention<float> clean(c), dirty(c);
    const Index width = dirty.problem.q_token;
    std::fill_n(dirty.input.begin() + 40 * width, width, std::numeric_limits<float>::quiet_NaN());
    clean.run(), dirty.run();
    for (const Index start : {dirty.k_at, dirty.v_at})
      for (Index s = 0; s < 100; ++s)
        for (Index i = 0; i < width; ++i) {
          const auto at = count(start + s * width + i);
          if (s <= 40) {
            EXPECT_TRUE(std::isnan(dirty.gradient[at]));
          } else {
            EXPECT_NEAR(dirty.gradient[at], clean.gradient[at], 1e-5);
          }
        }
  }
}

TEST(Attention, NeverReadsKeysThatNobodySees) {
  const Case c{.batch = 1, .query_length = 10, .key_length = 200, .fused = false};
  Attention<float> clean(c), dirty(c);
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  const Index width = dirty.problem.k_token;
  std::fill(dirty.input.begin() + dirty.k_at + 10 * width, dirty.input.begin() + dirty.v_at, nan);
  std::fill(dirty.input.begin() + dirty.v_at + 10 * width, dirty.input.end(), nan);
  clean.run(), dirty.run();
  EXPECT_TRUE(same_bits(clean.out, dirty.out));
  EXPECT_LE(distance(dirty.gradient, clean.gradient), 1e-6);
}

TEST(Attention, SurvivesLargeScores) {
  Case c{.batch = 1, .query_length = 70, .key_length = 70, .head_dims = 8};
  Attention<float> a(c);
  Attention<double> expected(c);
  for (Index i = 0; i < a.k_at; ++i) a.input[count(i)] *= 300, expected.input[count(i)] *= 300;
  a.run(), naive(expected);
  EXPECT_LE(distance(a.out, expected.out), 2e-4);  // scores near 1000 carry an error of 1e-4 in float
  for (const float x : a.gradient) ASSERT_TRUE(std::isfinite(x));
}

TEST(Attention, LeavesUnwantedGradientsAlone) {
  for (const Index heads : {2, 8}) {
    const Case c{.batch = 1, .query_length = 70, .key_length = 70, .heads = heads, .kv_heads = heads};
    Attention<float> all(c);
    all.run();
    for (int wanted = 0; wanted < 8; ++wanted) {
      Attention<float> some(c);
      some.forward();
      some.backward(wanted & 1, wanted & 2, wanted & 4);
      const Index ends[] = {0, some.k_at, some.v_at, static_cast<Index>(some.gradient.size())};
      for (int part = 0; part < 3; ++part)
        for (Index i = ends[part]; i < ends[part + 1]; ++i) {
          if ((wanted >> part & 1) != 0) {
            EXPECT_NEAR(some.gradient[count(i)], all.gradient[count(i)], 1e-5);
          } else {
            EXPECT_TRUE(std::isnan(some.gradient[count(i)]));
          }
        }
    }
  }
}

TEST(Attention, TakesEmptyAxes) {
  for (const Index heads : {1, 8})
    for (const bool causal : {false, true}) {
      check({.batch = 0, .heads = heads, .kv_heads = heads, .causal = causal});
      check({.query_length = 0, .heads = heads, .kv_heads = heads, .causal = causal});
      check({.key_length = 0, .heads = heads, .kv_heads = heads, .causal = causal});
      check({.heads = heads, .kv_heads = heads, .head_dims = 0, .causal = causal});
    }
  check({.heads = 0, .kv_heads = 0});
}

TEST(Attention, ScratchIsTilesOnly) {
  remat::kernels::AttentionProblem<float> long_one{
      .batch = 1, .query_length = 16384, .key_length = 16384, .heads = 8, .kv_heads = 8, .head_dims = 64};
  with_threads(2, [&] {
    EXPECT_LE(attention_forward_scratch(long_one), std::size_t{1} << 20);
    EXPECT_LE(attention_backward_scratch(long_one), std::size_t{8} << 20);
  });
}

}  // namespace
