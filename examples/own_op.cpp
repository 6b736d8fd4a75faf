// An op of your own: its value, its derivative beside it, and a check of one against the other.
// docs/add_an_op.md explains each member.
#include <cmath>
#include <iostream>
#include <remat/remat.hpp>

template <class T>
struct Mish final : remat::Op {
  static constexpr remat::In<T> x{0};   // [...]
  static constexpr remat::Out<T> y{0};  // [...]
  Mish() : Op("mish") {}

  remat::Specs infer(const remat::Operands& in) const override { return {y(in[x].shape)}; }
  remat::Residuals residuals(const remat::Wanted&) const override { return {x}; }  // what backward reads
  void forward(remat::Frame& f) const override {
    const T* in = f[x].data();
    T* out = f[y].data();
    remat::parallel_for(f[x].size(), 4096, [=](remat::Index begin, remat::Index end) {
      for (remat::Index i = begin; i < end; ++i) out[i] = in[i] * std::tanh(softplus(in[i]));
    });
  }
  void backward(remat::Frame& f) const override {
    const T *in = f[x].data(), *dy = f.grad(y).data();
    T* dx = f.grad(x).data();
    remat::parallel_for(f[x].size(), 4096, [=](remat::Index begin, remat::Index end) {
      for (remat::Index i = begin; i < end; ++i) {
        const T t = std::tanh(softplus(in[i])), sigmoid = 1 / (1 + std::exp(-in[i]));
        dx[i] = dy[i] * (t + in[i] * (1 - t * t) * sigmoid);
      }
    });
  }

 private:
  static T softplus(T v) { return std::max(v, T{0}) + std::log1p(std::exp(-std::abs(v))); }
};

/// x tanh(log(1 + e^x)), element by element (Misra 2019).
template <class T>
remat::Var<T> mish(const remat::Var<T>& x) {
  return remat::record(Mish<T>(), x)[Mish<T>::y];
}

int main() {
  const remat::Tensor<double> x({2, 3}, {-30, -1, -0.1, 0.2, 2, 30});
  const auto result =
      remat::gradient_check([](remat::Tape&, const std::vector<remat::Var<double>>& in) { return mish(in[0]); }, {x});
  std::cout << result;
  return result.ok(1e-7) ? 0 : 1;
}
