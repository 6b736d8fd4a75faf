// Softmax and cross-entropy on rows of logits: values and gradients, for whoever made the logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/vector_math.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// The tokens that belong to rows of logits. One with the target `ignore` or weight 0 does not count.
template <class T>
struct LossTokens {
  const std::int32_t* targets;
  const T* weights;  // null: 1 each
  std::int32_t ignore;

  T weight(Index i) const {
    if (targets[i] == ignore) return 0;
    return weights == nullptr ? T{1} : weights[i];
  }
  T total_weight(Index count) const {
    return sum_of<T>(count, [this](Index i) { return weight(i); });
  }
  LossTokens from(Index first) const {
    return {targets + first, weights == nullptr ? nullptr : weights + first, ignore};
  }
};

namespace detail {

template <class T>
struct NoCap {
  T operator()(T x) const { return x; }
  T slope(T) const { return 1; }
  template <class Row>
  Row of(Row x, Index, T*) const {
    return x;
  }
};
template <class T>
struct Scaled {
  T factor;
  T operator()(T x) const { return factor * x; }
  T slope(T) const { return factor; }
  template <class Row>
  const T* of(Row x, Index count, T* buffer) const {
    for (Index j = 0; j < count; ++j) buffer[j] = factor * x[j];
    return buffer;
  }
};
template <class T>
struct TanhCap {
  T limit, inverse, factor, into;
  TanhCap(T c, T multiplier) : limit(c), inverse(1 / c), factor(multiplier), into(multiplier * inverse) {}
  T operator()(T x) const { return limit * fast_tanh(x * into); }
  /// The derivative, from the result.
  T slope(T y) const { return factor * ((1 - y * inverse) * (1 + y * inverse)); }
  /// Many at a time, in the buffer: a sum over calls of tanh would not vectorize for double, and clang would warn.
  template <class Row>
  const T* of(Row x, Index count, T* buffer) const {
    for (Index j = 0; j < count; ++j) buffer[j] = (*this)(x[j]);
    return buffer;
  }
};

}  // namespace detail

/// What one row x [V] costs: -sum_j q_j log softmax(u)_j + z_loss logsumexp(u)^2, where u = soft_cap tanh(v /
/// soft_cap), or v for soft_cap 0, of v = multiplier x, and q is 1 - label_smoothing at the target with
/// label_smoothing / V added everywhere. A row is an array of `T`, or of bfloat16 as such.
template <class T>
struct SoftmaxLoss {
  T label_smoothing = 0, z_loss = 0, soft_cap = 0, multiplier = 1;

  template <class Row>
  T value(Row row, Index classes, Index target, LogSumExp<T>& log_sum_exp) const {
    return with_cap([&](const auto cap) {
      const T top = cap(max_of<T>(classes, [=](Index j) { return row[j]; }));  // which keeps the order
      T exponentials = 0, distances = 0;
      constexpr Index most = 2048;
      T buffer[most];
      for (Index begin = 0; begin < classes; begin += most) {
        const Index count = std::min(most, classes - begin);
        const auto u = cap.of(row + begin, count, buffer);
        exponentials += sum_of<T>(count, [=](Index j) { return fast_exp(u[j] - top); });
        if (label_smoothing > 0) distances += sum_of<T>(count, [=](Index j) { return u[j] - top; });
      }
      const T log_sum = std::log(exponentials);
      log_sum_exp = LogSumExp<T>::of(top, log_sum);
      // Of small numbers: no digits are lost.
      T loss = log_sum - (1 - label_smoothing) * as_written(cap(row[target]) - top);
      if (label_smoothing > 0) loss -= label_smoothing / static_cast<T>(classes) * distances;
      return z_loss > 0 ? loss + z_loss * log_sum_exp.value * log_sum_exp.value : loss;
    });
  }
  /// to[j] = scale times the derivative of `value` by row[j]; `to` may be `row`.
  template <class Row, class Gradient>
  void gradient(Row row, Index classes, Index target, const LogSumExp<T>& log_sum_exp, T scale, Gradient to) const {
    with_cap([&](const auto cap) {
      const T of_softmax = scale * (1 + 2 * z_loss * log_sum_exp.value);
      const T everywhere = scale * label_smoothing / static_cast<T>(classes);
      const auto at = [=](T x, T wanted) {
        const T u = cap(x);
        return (log_sum_exp.share(u) * of_softmax - wanted) * cap.slope(u);
      };
      const T at_target = at(row[target], scale * (1 - label_smoothing) + everywhere);
      const auto fill = [&](const auto from) {
        for (Index j = 0; j < classes; ++j) to[j] = at(from[j], everywhere);
      };
      if constexpr (std::is_same_v<Row, const T*> && std::is_same_v<Gradient, T*>) {
        if (to == row)  // two loops: each vectorizes without a simd pragma, which clang would warn of for double
          fill(to);
        else
          fill(row);
      } else {
        fill(row);
      }
      to[target] = at_target;
    });
  }

 private:
  template <class F>
  auto with_cap(F&& body) const {
    if (soft_cap > 0) return body(detail::TanhCap<T>(soft_cap, multiplier));
    return multiplier != 1 ? body(detail::Scaled<T>{multiplier}) : body(detail::NoCap<T>{});
  }
};

/// The sum over rows of weight times loss, in an order that depends on the shape alone. Writes `log_sum_exp` [rows] and
/// its `rest` [rows], and each weight times loss to `each` [rows] unless it is null: 0 for a row that does not count,
/// which is not even looked at.
template <class T, class Logit>
T softmax_losses(const SoftmaxLoss<T>& loss, const LossTokens<T>& tokens, Index rows, Index classes,
                 const Logit* logits, T* log_sum_exp, T* rest, T* each) {
  return parallel_sum<T>(rows, row_grain(8 * classes), [=](Index begin, Index end) {
    T sum = 0;
    for (Index i = begin; i < end; ++i) {
      LogSumExp<T> of_row{0};
      T value = 0;
      if (const T weight = tokens.weight(i); weight != 0) {
        value = loss.value(numbers(logits + i * classes), classes, tokens.targets[i], of_row);
        sum += weight * value;
      }
      if (each != nullptr) each[i] = value;
      log_sum_exp[i] = of_row.value, rest[i] = of_row.rest;
    }
    // Not above: a product with two uses would round before it is added.
    for (Index i = begin; i < end && each != nullptr; ++i) each[i] *= tokens.weight(i);
    return sum;
  });
}

/// gradients [rows, classes] = the derivative by the logits of a number whose own by row i's weight times loss is
/// share(i); may be the logits' own memory.
template <class T, class Logit, class Share, class Gradient>
void softmax_loss_gradients(const SoftmaxLoss<T>& loss, const LossTokens<T>& tokens, Index rows, Index classes,
                            const Logit* logits, const T* log_sum_exp, const T* rest, Share share,
                            Gradient* gradients) {
  parallel_for(rows, row_grain(8 * classes), [=](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      Gradient* to = gradients + i * classes;
      if (const T scale = share(i) * tokens.weight(i); scale != 0)
        loss.gradient(numbers(logits + i * classes), classes, tokens.targets[i], {log_sum_exp[i], rest[i]}, scale,
                      numbers(to));
      else
        std::fill_n(to, classes, static_cast<Gradient>(0));
    }
  });
}

}}}  // namespace remat::kernels
