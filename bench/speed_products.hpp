// The matrix products of a recorded step, to be run alone: the least time that the step could take.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <remat/remat.hpp>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "speed_table.hpp"

namespace bench {

/// Products of one shape on buffers of their own, which the linear layers and the head of a step run `count` times.
struct Product {
  remat::kernels::Gemm shape{};
  int count = 0;
  Timed timed{};                // all `count` of them
  std::function<void()> run{};  // likewise
};

namespace detail {

using remat::kernels::Gemm, remat::kernels::Trans;
/// m, n, k, which operands are transposed, whether C is added to and whether it is of Accum<T>.
using Counts = std::map<std::tuple<remat::Index, remat::Index, remat::Index, Trans, Trans, bool, bool>, int>;

inline void count(Counts& counts, const Gemm& g, bool wide) { ++counts[{g.m, g.n, g.k, g.a, g.b, g.accumulate, wide}]; }

/// Those of `y = x w` for `rows` tokens: forward, or what backward makes of it.
template <class T>
struct LinearProducts {
  static constexpr bool is_mixed = !std::is_same_v<T, remat::Accum<T>>;
  remat::Index d, f;
  bool transposed;
  Trans trans(bool is) const { return is ? Trans::yes : Trans::no; }
  void forward(Counts& counts, remat::Index rows, bool wide) const {
    count(counts, {.b = trans(transposed), .m = rows, .n = f, .k = d}, is_mixed && wide);
  }
  void backward(Counts& counts, remat::Index rows, bool wants_x, bool accumulate) const {
    if (wants_x) count(counts, {.b = trans(!transposed), .m = rows, .n = d, .k = f}, false);
    Gemm weights{.a = Trans::yes, .m = d, .n = f, .k = rows};
    if (transposed) std::swap(weights.m, weights.n);
    weights.accumulate = accumulate;
    count(counts, weights, is_mixed);
  }
};

template <class T>
void count_products(Counts& counts, const remat::Program& program, const remat::Node& node) {
  const auto operands = program.operands_of(node);
  const auto weights = [&] { return operands[1].shape; };
  const auto wants_x = [&] { return program.slot(operands[0].slot).wants_gradient; };
  if (const auto* op = dynamic_cast<const remat::ops::Linear<T>*>(node.op.get())) {
    const bool t = op->weight.transposed;
    const LinearProducts<T> products{weights()[t ? 1 : 0], weights()[t ? 0 : 1], t};
    const remat::Index rows = operands[0].shape.rows();
    products.forward(counts, rows, false);
    if (node.live) products.backward(counts, rows, wants_x(), false);
  } else if (const auto* head = dynamic_cast<const remat::ops::LinearCrossEntropy<T>*>(node.op.get())) {
    const bool t = head->head.weight.transposed;
    const LinearProducts<T> products{weights()[t ? 1 : 0], weights()[t ? 0 : 1], t};
    const remat::Index tokens = operands[0].shape.rows();
    const remat::Index chunk = remat::ops::TokenChunks<T>(operands[0].shape, products.f, head->chunk).chunk;
    for (remat::Index first = 0; first < tokens; first += chunk) {
      const remat::Index rows = std::min(chunk, tokens - first);
      products.forward(counts, rows, true);
      if (!node.live) continue;
      if (!head->keeps) products.forward(counts, rows, true);  // its logits once more
      products.backward(counts, rows, wants_x(), first > 0);
    }
  }
}

template <class T>
remat::Tensor<T> random_tensor(remat::Index size) {
  remat::Tensor<T> tensor({size});
  const remat::RandomStream random{7, 0, 0};
  std::uint64_t i = 0;
  for (T& value : tensor.write()) value = static_cast<T>(random.uniform(i++) - 0.5F);
  return tensor;
}

}  // namespace detail

/// The products of all linear layers and the head, of type T, on a tape whose backward has run, most flops first.
template <class T>
std::vector<Product> products_of(const remat::Program& program) {
  detail::Counts counts;
  for (const remat::Node& node : program.nodes) detail::count_products<T>(counts, program, node);
  std::vector<Product> products;
  for (const auto& [key, count] : counts) {
    const auto [m, n, k, a, b, accumulate, wide] = key;
    Product product{.shape = {.a = a, .b = b, .m = m, .n = n, .k = k}, .count = count};
    product.shape.accumulate = accumulate;
    const auto letter = [](remat::kernels::Trans trans) { return trans == remat::kernels::Trans::yes ? 't' : 'n'; };
    product.timed.name = text_of("%c%c%s%s", letter(a), letter(b), wide ? "f" : "", accumulate ? "+" : "");
    product.timed.flops = 2.0 * count * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    const auto run_into = [&product, g = product.shape](auto zero) {
      const remat::Tensor<T> left = detail::random_tensor<T>(g.m * g.k), right = detail::random_tensor<T>(g.k * g.n);
      product.run = [=, times = product.count, c = remat::Tensor<decltype(zero)>({g.m * g.n}, zero)]() mutable {
        for (int i = 0; i < times; ++i) remat::kernels::gemm(g, left.data(), right.data(), c.write().data());
      };
    };
    wide ? run_into(remat::Accum<T>{0}) : run_into(T{0});
    products.push_back(std::move(product));
  }
  std::sort(products.begin(), products.end(),
            [](const Product& x, const Product& y) { return x.timed.flops > y.timed.flops; });
  return products;
}

}  // namespace bench
