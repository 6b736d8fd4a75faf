// Which experts a token goes to, and which of their slots it gets: the decisions of a mixture of experts.
#pragma once

#include <algorithm>
#include <limits>
#include <remat/autodiff/var.hpp>
#include <remat/core/parallel.hpp>

namespace remat { inline namespace REMAT_ABI {

/// How `route` shares out tokens.
struct RouteOptions {
  Index top_k = 1;     // experts a token goes to
  Index capacity = 0;  // slots of each expert; a token that comes too late gets none
};

namespace ops {

template <class T>
struct Route : Op {
  static constexpr In<T> scores{0};                         // [N, E]
  static constexpr Out<T> gates{0};                         // [N, k]
  static constexpr Out<std::int32_t> experts{1}, slots{2};  // [N, k]
  static constexpr Out<std::int32_t> tokens{3};             // [E, C]
  RouteOptions options;

  explicit Route(const RouteOptions& o) : Op("route"), options(o) {}

  Specs infer(const Operands& in) const override {
    const Shape& shape = in[scores].shape;
    require(shape.rank() == 2, "scores have shape ", shape, ", a row of experts for each token is needed");
    require(options.top_k >= 1 && options.top_k <= shape[1], "top_k is ", options.top_k, ", there are ", shape[1],
            " experts");
    require(options.capacity >= 0, "an expert has a capacity of ", options.capacity);
    require(std::max(shape[0], checked_mul(shape[1], options.capacity, "slots")) <= std::numeric_limits<int>::max(),
            shape[0], " tokens and ", shape[1], " x ", options.capacity, " slots are too many to number");
    const Shape chosen{shape[0], options.top_k};
    return {gates(chosen), experts(chosen), slots(chosen), tokens({shape[1], options.capacity})};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    return {.forward_scratch = static_cast<std::size_t>(in[scores].shape[1]) * sizeof(Index)};
  }
  Residuals residuals(const Wanted&) const override { return {experts}; }

  void forward(Frame& f) const override {
    const Index n = f[scores].rows(), e = f[scores].cols(), k = options.top_k;
    const T* from = f[scores].data();
    T* chosen = f[gates].data();
    std::int32_t* ids = f[experts].data();
    parallel_for(n, row_grain(e * k), [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) choose(from + i * e, e, k, chosen + i * k, ids + i * k);
    });
    assign_slots(f, n, e, k);
  }
  void backward(Frame& f) const override {
    const Index n = f[scores].rows(), e = f[scores].cols(), k = options.top_k;
    const std::int32_t* ids = f[experts].data();
    const T* dy = f.grad(gates).data();
    T* dx = f.grad(scores).data();
    parallel_for(n, row_grain(e), [=](Index begin, Index end) {
      std::fill(dx + begin * e, dx + end * e, T{0});
      for (Index i = begin * k; i < end * k; ++i) dx[i / k * e + ids[i]] = dy[i];
    });
  }

 private:
  /// The k greatest, the first of equals first. Scores that are no numbers still give k different experts.
  static void choose(const T* row, Index e, Index k, T* chosen, std::int32_t* ids) {
    for (Index j = 0; j < k; ++j) {
      Index best = -1;
      for (Index i = 0; i < e; ++i)
        if ((best < 0 || row[i] > row[best]) && std::find(ids, ids + j, i) == ids + j) best = i;
      chosen[j] = row[best];
      ids[j] = static_cast<std::int32_t>(best);
    }
  }
  /// In order of tokens, every first choice before any second: one thread, since each slot depends on those before it.
  void assign_slots(Frame& f, Index n, Index e, Index k) const {
    const Index capacity = options.capacity;
    const std::int32_t* ids = f[experts].data();
    std::int32_t *slot_of = f[slots].data(), *token_of = f[tokens].data();
    Index* next = f.template scratch<Index>();
    std::fill_n(next, e, Index{0});
    std::fill_n(token_of, e * capacity, -1);
    for (Index j = 0; j < k; ++j)
      for (Index i = 0; i < n; ++i) {
        const Index expert = ids[i * k + j];
        const bool is_free = next[expert] < capacity;
        const Index at = expert * capacity + next[expert];
        slot_of[i * k + j] = is_free ? static_cast<std::int32_t>(at) : -1;
        if (!is_free) continue;
        token_of[at] = static_cast<std::int32_t>(i);
        ++next[expert];
      }
  }
};

}  // namespace ops

/// What `route` decided for N tokens, E experts, k choices a token, capacity C.
template <class T>
struct Routing {
  Var<T> gates;               // [N, k]: the chosen scores, greatest first
  Var<std::int32_t> experts;  // [N, k]: whose they are
  Var<std::int32_t> slots;    // [N, k]: slot in [0, E C), or -1 when the expert was full
  Var<std::int32_t> tokens;   // [E, C]: the token in each slot, or -1
};

/// Sends each token to the `top_k` experts with the greatest of its scores [N, E], slots given out in order of tokens,
/// first choices first (Shazeer et al. 2017; Lepikhin et al. 2021). Only the gates have a gradient.
template <class T>
Routing<T> route(const Var<T>& scores, const RouteOptions& options) {
  using O = ops::Route<T>;
  const Results results = record(O(options), scores);
  return {results[O::gates], results[O::experts], results[O::slots], results[O::tokens]};
}

}}  // namespace remat
