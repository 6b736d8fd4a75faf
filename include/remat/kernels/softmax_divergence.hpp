// The Kullback-Leibler divergence between two softmaxes, row by row: values and gradients, from the logits of both.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// What is kept of the logits x of one row, to make log softmax(x / temperature)_j = (x_j - top) / temperature -
/// log_sum: two numbers, because beside a large maximum the logarithm would be lost.
template <class T>
struct SoftmaxRow {
  T top = 0, log_sum = 0;
};

/// What is kept of a row of student and teacher.
template <class T>
struct DivergenceRow {
  SoftmaxRow<T> student, teacher;
  T divergence = 0;

  static constexpr Index size = 5;
  static DivergenceRow read(const T* x) { return {{x[0], x[1]}, {x[2], x[3]}, x[4]}; }
  void write(T* to) const {
    const T all[size] = {student.top, student.log_sum, teacher.top, teacher.log_sum, divergence};
    std::copy_n(all, size, to);
  }
};

/// sum_j p_j log(p_j / q_j) of one row, for q = softmax(student / temperature) and p = softmax(teacher / temperature).
/// A row is an array of `T`, or of bfloat16 as such.
template <class T>
struct SoftmaxDivergence {
  T temperature = 1, inverse = 1 / temperature;

  template <class Row>
  DivergenceRow<T> value(Row student, Row teacher, Index classes) const {
    DivergenceRow<T> row{softmax_row(student, classes), softmax_row(teacher, classes)};
    row.divergence = sum_of_calls<T>(classes, [=, this](Index j) {
      return term(log_share(teacher[j], row.teacher), log_share(student[j], row.student));
    });
    return row;
  }
  /// to[j] = scale times the derivative by student[j], but for a factor 1 / temperature.
  template <class Row, class Gradient>
  void student_gradient(Row student, Row teacher, Index classes, const DivergenceRow<T>& row, T scale,
                        Gradient to) const {
    for (Index j = 0; j < classes; ++j)
      to[j] = scale * (fast_exp(log_share(student[j], row.student)) - fast_exp(log_share(teacher[j], row.teacher)));
  }
  /// The same by teacher[j].
  template <class Row, class Gradient>
  void teacher_gradient(Row student, Row teacher, Index classes, const DivergenceRow<T>& row, T scale,
                        Gradient to) const {
    for (Index j = 0; j < classes; ++j) {
      const T log_p = log_share(teacher[j], row.teacher), log_q = log_share(student[j], row.student);
      const T p = fast_exp(log_p);
      to[j] = detail::select(p == 0, T{0}, scale * p * (log_p - log_q - row.divergence));
    }
  }

 private:
  template <class Row>
  SoftmaxRow<T> softmax_row(Row row, Index classes) const {
    const T top = max_of<T>(classes, [=](Index j) { return row[j]; });
    const SoftmaxRow<T> unscaled{top};
    return {top,
            std::log(sum_of_calls<T>(classes, [=, this](Index j) { return fast_exp(log_share(row[j], unscaled)); }))};
  }
  [[gnu::always_inline]] T log_share(T x, const SoftmaxRow<T>& row) const {
    return as_written(x - row.top) * inverse - row.log_sum;
  }
  /// p log(p / q) + q - p. The sums of q and p are equal, so the total is the divergence; no term is negative, and of a
  /// student near its teacher no digits cancel. What the teacher rules out costs q.
  [[gnu::always_inline]] static T term(T log_p, T log_q) {
    const T p = fast_exp(log_p), q = fast_exp(log_q), distance = log_p - log_q;
    T series = 1;  // e^-d - 1 + d = d^2 / 2 (1 - d / 3 (1 - d / 4 (...)))
    for (int k = sizeof(T) == 4 ? 7 : 12; k > 2; --k) series = 1 - series * distance * (T{1} / static_cast<T>(k));
    const T near = p * (distance * distance * T(0.5)) * series, far = p * distance + (q - p);
    return detail::select(p == 0, q, detail::select(std::fabs(distance) < T(0.25), near, far));
  }
};

/// The sum over rows of weight(i) times the divergence of row i, times `scale`, in an order that depends on the shape
/// alone. Writes `kept` [rows, DivergenceRow::size], and each term to `each` [rows] unless it is null; zeros for a row
/// that weighs nothing, which is not even looked at.
template <class T, class Logit, class Weight>
T softmax_divergences(const SoftmaxDivergence<T>& loss, Weight weight, T scale, Index rows, Index classes,
                      const Logit* student, const Logit* teacher, T* kept, T* each) {
  return parallel_sum<T>(rows, row_grain(16 * classes), [=](Index begin, Index end) {
    T sum = 0;
    for (Index i = begin; i < end; ++i) {
      DivergenceRow<T> row;
      T term = 0;
      if (const T w = weight(i); w != 0) {
        row = loss.value(numbers(student + i * classes), numbers(teacher + i * classes), classes);
        term = scale * w * row.divergence;
      }
      row.write(kept + i * DivergenceRow<T>::size);
      if (each != nullptr) each[i] = term;
      sum += term;
    }
    return sum;
  });
}

/// Calls `fill(i, row, scale)` for each row, scale being factor share(i) weight(i), with zeros in `to` [rows, classes]
/// instead where it is 0.
template <class T, class Gradient, class Weight, class Share, class Fill>
void each_divergence_row(Weight weight, Share share, T factor, Index rows, Index classes, const T* kept, Gradient* to,
                         Fill fill) {
  parallel_for(rows, row_grain(16 * classes), [=](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      if (const T scale = factor * share(i) * weight(i); scale != 0)
        fill(i, DivergenceRow<T>::read(kept + i * DivergenceRow<T>::size), scale);
      else
        std::fill_n(to + i * classes, classes, static_cast<Gradient>(0));
    }
  });
}

}}}  // namespace remat::kernels
