// Softmax and cross-entropy in one op: neither probabilities nor their logarithms are ever stored.
#pragma once

#include <cmath>
#include <remat/autodiff/var.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/vector_math.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat::inline REMAT_ABI {

struct CrossEntropyOptions {
  std::int32_t ignore = -1;  // tokens with this target count for nothing
};

namespace ops {

template <class T>
struct CrossEntropy : Op {
  static constexpr In<T> logits{0};
  static constexpr In<std::int32_t> targets{1};
  static constexpr Out<Accum<T>> loss{0}, log_sum_exp{1};  // [], [...]
  CrossEntropyOptions options;

  explicit CrossEntropy(const CrossEntropyOptions& o) : Op("cross_entropy"), options(o) {}

  Specs infer(const Operands& in) const override {
    const Shape &ls = in[logits].shape, &ts = in[targets].shape;
    require(ls.rank() > 0, "logits are a number, a last axis of classes is needed");
    require(ts == ls.drop_last(), "targets have shape ", ts, ", logits of shape ", ls, " need ", ls.drop_last());
    return {loss(Shape{}), log_sum_exp(ts)};
  }
  Residuals residuals(const Wanted&) const override { return {logits, targets, log_sum_exp}; }
  void forward(Frame& f) const override {
    const Index classes = f[logits].cols();
    check_ids(f[targets], classes, options.ignore, "target", "logits have", "classes");
    const T* xs = f[logits].data();
    const std::int32_t* ts = f[targets].data();
    T* sums = f[log_sum_exp].data();
    const std::int32_t ignored = options.ignore;
    const T total = parallel_sum<T>(f[targets].size(), row_grain(8 * classes), [=](Index begin, Index end) {
      T block = 0;
      for (Index i = begin; i < end; ++i) {
        const T* row = xs + i * classes;
        const T top = kernels::max(row, classes);
        const T log_sum =
            std::log(kernels::sum_of<T>(classes, [=](Index j) { return kernels::fast_exp(row[j] - top); }));
        sums[i] = top + log_sum;
        if (ts[i] != ignored) block += log_sum - (row[ts[i]] - top);  // small numbers: no digits are lost
      }
      return block;
    });
    *f[loss].data() = total / counted(f[targets]);
  }
  void backward(Frame& f) const override {
    const Index classes = f[logits].cols();
    const T share = *f.grad(loss).data() / counted(f[targets]);
    const T *xs = f[logits].data(), *sums = f[log_sum_exp].data();
    const std::int32_t* ts = f[targets].data();
    T* dx = f.grad(logits).data();
    const std::int32_t ignored = options.ignore;
    parallel_for(f[targets].size(), row_grain(8 * classes), [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const T *row = xs + i * classes, sum = sums[i];
        T* to = dx + i * classes;
        if (ts[i] == ignored) {
          std::fill_n(to, classes, T{0});
          continue;
        }
        for (Index j = 0; j < classes; ++j) to[j] = kernels::fast_exp(row[j] - sum) * share;
        to[ts[i]] -= share;
      }
    });
  }

 private:
  /// Tokens that count, at least 1: the mean over none is 0.
  T counted(const View<const std::int32_t>& ts) const {
    const Index ignored = std::count(ts.data(), ts.data() + ts.size(), options.ignore);
    return static_cast<T>(std::max<Index>(1, ts.size() - ignored));
  }
};

}  // namespace ops

/// Mean over tokens of -log softmax(logits)[target], in nats: logits [..., V], targets [...] in [0, V), or `ignore` for
/// tokens that do not count. 0 when none counts.
template <class T>
Var<Accum<T>> cross_entropy(const Var<T>& logits, const Like<std::int32_t>& targets,
                            const CrossEntropyOptions& options = {}) {
  using O = ops::CrossEntropy<T>;
  return record(O(options), logits, targets)[O::loss];
}

}  // namespace remat::inline REMAT_ABI
