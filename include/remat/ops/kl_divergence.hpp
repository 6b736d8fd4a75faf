// The Kullback-Leibler divergence of a student's softmax from a teacher's in one op, for distillation: neither
// probabilities nor their logarithms are ever stored.
#pragma once

#include <limits>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/softmax_divergence.hpp>
#include <remat/ops/loss_reduction.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Settings of `kl_divergence`.
struct KlDivergenceOptions {
  double temperature = 1;                 // divides both logits; the loss is scaled by its square (arXiv 1503.02531)
  Reduction reduction = Reduction::mean;  // over rows; none: the loss of each
};

namespace ops {

template <class T>
struct KlDivergence : Op {
  using A = Accum<T>;
  static constexpr In<T> student{0}, teacher{1};  // [..., V], [..., V]
  static constexpr In<A> weights{2};              // [...]
  static constexpr Out<A> loss{0}, rows{1};       // [] or [...], [..., 5]: see DivergenceRow
  kernels::SoftmaxDivergence<A> row_loss;
  LossReduction<A> reduction;

  explicit KlDivergence(const KlDivergenceOptions& o)
      : Op("kl_divergence"), row_loss{static_cast<A>(o.temperature)}, reduction{o.reduction} {}

  Specs infer(const Operands& in) const override {
    const Shape &ss = in[student].shape, &ts = in[teacher].shape;
    require(ss.rank() > 0, "student logits are a number, a last axis of classes is needed");
    require(ts == ss, "teacher logits have shape ", ts, ", student logits ", ss, ": they must be equal");
    const Shape each = ss.drop_last();
    require(!in.has(weights) || in[weights].shape == each, "weights have shape ", in[weights].shape,
            ", logits of shape ", ss, " need ", each);
    const A t = row_loss.temperature;
    require(t > 0 && t <= std::numeric_limits<A>::max(), "temperature ", t, " is not a number > 0");
    Shape kept = each;
    kept.push_back(kernels::DivergenceRow<A>::size);
    return {loss(reduction.shape(each)), rows(kept)};
  }
  Residuals residuals(const Wanted& wanted) const override {
    return wanted[student] || wanted[teacher] ? Residuals{student, teacher, weights, rows} : Residuals{};
  }
  void forward(Frame& f) const override {
    const A square = row_loss.temperature * row_loss.temperature;
    const A sum =
        kernels::softmax_divergences(row_loss, weight(f), square, count(f), f[student].cols(), f[student].data(),
                                     f[teacher].data(), f[rows].data(), reduction.each(f[loss]));
    reduction.write(sum, total_weight(f), f[loss]);
  }
  void backward(Frame& f) const override {
    pass_nothing_to(weights, f);
    if (!f.wants(student) && !f.wants(teacher)) return;
    const auto shares = reduction.shares(f.grad(loss), total_weight(f));
    const Index classes = f[student].cols();
    const auto write = [&](In<T> operand, auto gradient) {
      if (!f.wants(operand)) return;
      T* const to = f.grad(operand).data();
      kernels::each_divergence_row<A>(
          weight(f), shares, row_loss.temperature, count(f), classes, f[rows].data(), to,
          [=, from = f[student].data(), like = f[teacher].data()](Index i, const auto& row, A scale) {
            gradient(numbers(from + i * classes), numbers(like + i * classes), row, scale, numbers(to + i * classes));
          });
    };
    write(student, [=, this](auto from, auto like, const auto& row, A scale, auto to) {
      row_loss.student_gradient(from, like, classes, row, scale, to);
    });
    write(teacher, [=, this](auto from, auto like, const auto& row, A scale, auto to) {
      row_loss.teacher_gradient(from, like, classes, row, scale, to);
    });
  }

 private:
  static Index count(const Frame& f) { return f[student].shape().drop_last().size(); }
  static auto weight(const Frame& f) {
    return [data = f.has(weights) ? f[weights].data() : nullptr](Index i) { return data == nullptr ? A{1} : data[i]; };
  }
  static auto total_weight(const Frame& f) {
    return [&f] { return kernels::sum_of<A>(count(f), weight(f)); };
  }
};

}  // namespace ops

/// Mean over rows of temperature^2 sum_j p_j log(p_j / q_j), in nats, with q = softmax(student_logits / temperature)
/// and p that of the teacher, both [..., V] (Hinton, Vinyals, Dean 2015, arXiv 1503.02531). Gradients flow to both; a
/// teacher that is only to teach is a Tensor or `stop_gradient(teacher)`. With `weights` [...], constants, it is the
/// weighted mean; 0 when nothing counts. Errors: shapes that do not fit, a temperature that is not > 0.
template <class T>
Var<Accum<T>> kl_divergence(const Var<T>& student_logits, const Like<T>& teacher_logits,
                            const KlDivergenceOptions& options = {}, const Like<Accum<T>>& weights = {}) {
  using O = ops::KlDivergence<T>;
  return record(O(options), student_logits, teacher_logits, weights)[O::loss];
}

}}  // namespace remat
