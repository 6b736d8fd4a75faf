// Which experts a token goes to, and which of their slots it gets: the decisions of a mixture of experts.
#pragma once

#include <algorithm>
#include <limits>
#include <remat/autodiff/var.hpp>
#include <remat/core/parallel.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {

/// How `route` shares out tokens.
struct RouteOptions {
  Index top_k = 1;             // experts a token goes to
  Index capacity = 0;          // slots of each expert in each group; a token that comes too late gets none
  Index groups = 1;            // equal runs of tokens, each with slots of its own
  bool dropless = false;       // a slot for every choice instead, expert by expert, and no capacity
  bool expert_choice = false;  // each expert takes the `capacity` tokens with its greatest scores instead (Zhou et al.
                               // 2022); then there are as many choices as experts
  Index expert_groups = 1;     // equal runs of experts, of which a token may use the `top_groups` whose two best are
  Index top_groups = 0;        // greatest in sum (DeepSeek V3); 0: all
};

namespace ops {

template <class T>
struct Route : Op {
  static constexpr In<T> scores{0};                         // [N, E]
  static constexpr In<T> by{1};                             // [N, E], what is compared; the scores when left out
  static constexpr In<std::int32_t> lengths{2};             // [B] of N = B T
  static constexpr Out<T> gates{0};                         // [N, k]
  static constexpr Out<std::int32_t> experts{1}, slots{2};  // [N, k]
  static constexpr Out<std::int32_t> tokens{3};             // [E, G C], or [N k] without drops
  static constexpr Out<std::int32_t> counts{4};             // [E]: slots that are taken
  RouteOptions options;

  explicit Route(const RouteOptions& o) : Op("route"), options(o) {}

  Specs infer(const Operands& in) const override {
    const Shape& shape = in[scores].shape;
    const RouteOptions& o = options;
    require(shape.rank() == 2, "scores have shape ", shape, ", a row of experts for each token is needed");
    const Index n = shape[0], e = shape[1], k = choices(e);
    require(o.top_k >= 1 && o.top_k <= e, "top_k is ", o.top_k, ", there are ", e, " experts");
    require(o.capacity >= 0, "an expert has a capacity of ", o.capacity);
    require(o.groups > 0 && n % o.groups == 0, n, " tokens are not ", o.groups, " equal groups");
    require(!o.dropless || !o.expert_choice,
            "dropless is of tokens that choose experts, expert_choice of the other way");
    require(o.expert_groups > 0 && e % o.expert_groups == 0, e, " experts are not ", o.expert_groups, " equal groups");
    require(o.top_groups >= 0 && o.top_groups <= o.expert_groups, "top_groups is ", o.top_groups, ", there are ",
            o.expert_groups, " groups of experts");
    require(o.top_groups == 0 || o.top_groups * (e / o.expert_groups) >= o.top_k, "top_k is ", o.top_k, ", but ",
            o.top_groups, " groups have ", o.top_groups * (e / o.expert_groups), " experts");
    require(!in.has(by) || in[by].shape == shape, "what is compared has shape ", in.has(by) ? in[by].shape : Shape{},
            ", scores have ", shape);
    require(!in.has(lengths) ||
                (in[lengths].shape.rank() == 1 && in[lengths].shape.size() > 0 && n % in[lengths].shape[0] == 0),
            "lengths have shape ", in.has(lengths) ? in[lengths].shape : Shape{}, ", of ", n,
            " tokens they must be equal parts");
    const Index of_expert = o.dropless ? 0 : checked_mul(o.capacity, o.groups, "slots");
    const Index all = o.dropless ? checked_mul(n, k, "slots") : checked_mul(e, of_expert, "slots");
    require(std::max(n, all) <= std::numeric_limits<int>::max(), n, " tokens and ", all,
            " slots are too many to number");
    const Shape chosen{n, k};
    return {gates(chosen), experts(chosen), slots(chosen), tokens(o.dropless ? Shape{all} : Shape{e, of_expert}),
            counts(Shape{e})};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const Shape& shape = in[scores].shape;
    const Index numbers = options.expert_choice ? shape[0] : 2 * shape[1];
    return {.forward_scratch = static_cast<std::size_t>(numbers) * sizeof(Index)};
  }
  Residuals residuals(const Wanted&) const override { return {experts}; }

  void forward(Frame& f) const override {
    const Index n = f[scores].rows(), e = f[scores].cols(), k = choices(e);
    if (f.has(lengths)) check_lengths(f[lengths], n / f[lengths].size(), "length", "tokens");
    const T *from = f[scores].data(), *compared = f.has(by) ? f[by].data() : from;
    T* chosen = f[gates].data();
    std::int32_t* ids = f[experts].data();
    parallel_for(n, row_grain(e * k), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        choose(from + i * e, compared + i * e, e, k, chosen + i * k, ids + i * k);
        if (!is_token(f, i)) std::fill_n(ids + i * k, k, -1), std::fill_n(chosen + i * k, k, static_cast<T>(1));
      }
    });
    std::fill_n(f[slots].data(), n * k, -1);
    std::fill_n(f[tokens].data(), f[tokens].size(), -1);
    std::fill_n(f[counts].data(), e, 0);
    if (options.dropless) return seat_all(f, n, e, k);
    for (Index g = 0; g < options.groups; ++g) {
      const Index first = g * (n / options.groups), end = first + n / options.groups;
      options.expert_choice ? take_tokens(f, compared, g, first, end, e) : assign_slots(f, g, first, end, e, k);
    }
  }
  void backward(Frame& f) const override {
    const Index n = f[scores].rows(), e = f[scores].cols(), k = choices(e);
    if (f.wants(by)) std::fill_n(f.grad(by).data(), n * e, T{0});  // a choice does not move with what it compares
    if (!f.wants(scores)) return;
    const std::int32_t* ids = f[experts].data();
    const T* dy = f.grad(gates).data();
    T* dx = f.grad(scores).data();
    parallel_for(n, row_grain(e), [=](Index begin, Index end) {
      std::fill(dx + begin * e, dx + end * e, T{0});
      for (Index i = begin * k; i < end * k; ++i)
        if (ids[i] >= 0) dx[i / k * e + ids[i]] = dy[i];
    });
  }

 private:
  Index choices(Index e) const { return options.expert_choice ? e : options.top_k; }
  static bool is_token(const Frame& f, Index i) {
    if (!f.has(lengths)) return true;
    const Index row = f[scores].rows() / f[lengths].size();
    return i % row < f[lengths].data()[i / row];
  }
  Index slot(Index expert, Index group, Index place) const {
    return (expert * options.groups + group) * options.capacity + place;
  }

  /// The k greatest, the first of equals first. Scores that are no numbers still give k different experts.
  void choose(const T* row, const T* compared, Index e, Index k, T* chosen, std::int32_t* ids) const {
    for (Index j = 0; j < k; ++j) {
      Index best = -1;
      for (Index i = 0; i < e; ++i)
        if ((best < 0 || compared[i] > compared[best]) && std::find(ids, ids + j, i) == ids + j &&
            (options.expert_choice || may_use(compared, e, i)))
          best = i;
      if (options.expert_choice) best = j;
      chosen[j] = row[best];
      ids[j] = static_cast<std::int32_t>(best);
    }
  }
  /// Is expert i in one of the groups with the greatest sums, the first of equals first?
  bool may_use(const T* compared, Index e, Index i) const {
    if (options.top_groups == 0 || options.top_groups == options.expert_groups) return true;
    const Index size = e / options.expert_groups, mine = i / size;
    const auto sum = [&](Index g) {
      const T* of = compared + g * size;
      Index first = 0, second = -1;
      for (Index j = 1; j < size; ++j)
        if (of[j] > of[first])
          second = first, first = j;
        else if (second < 0 || of[j] > of[second])
          second = j;
      return static_cast<double>(of[first]) + (second < 0 ? 0.0 : static_cast<double>(of[second]));
    };
    const double own = sum(mine);
    Index better = 0;
    for (Index g = 0; g < options.expert_groups; ++g)
      if (const double other = sum(g); other > own || (!(own > other) && g < mine)) ++better;
    return better < options.top_groups;
  }
  /// In order of tokens, every first choice before any second: one thread, since each slot depends on those before it.
  void assign_slots(Frame& f, Index g, Index first, Index last, Index e, Index k) const {
    const std::int32_t* ids = f[experts].data();
    std::int32_t *slot_of = f[slots].data(), *token_of = f[tokens].data();
    Index* next = f.template scratch<Index>();
    std::fill_n(next, e, Index{0});
    for (Index j = 0; j < k; ++j)
      for (Index i = first; i < last; ++i) {
        const Index expert = ids[i * k + j];
        if (expert < 0 || next[expert] >= options.capacity) continue;
        const Index at = slot(expert, g, next[expert]++);
        slot_of[i * k + j] = static_cast<std::int32_t>(at);
        token_of[at] = static_cast<std::int32_t>(i);
      }
    for (Index i = 0; i < e; ++i) f[counts].data()[i] += static_cast<std::int32_t>(next[i]);
  }
  /// Every choice, expert by expert, in order of tokens.
  static void seat_all(Frame& f, Index n, Index e, Index k) {
    const std::int32_t* ids = f[experts].data();
    std::int32_t* taken = f[counts].data();
    for (Index i = 0; i < n * k; ++i)
      if (ids[i] >= 0) ++taken[ids[i]];
    Index* next = f.template scratch<Index>();
    for (Index i = 0, sum = 0; i < e; sum += taken[i++]) next[i] = sum;
    for (Index i = 0; i < n * k; ++i) {
      if (ids[i] < 0) continue;
      const Index at = next[ids[i]]++;
      f[slots].data()[i] = static_cast<std::int32_t>(at);
      f[tokens].data()[at] = static_cast<std::int32_t>(i / k);
    }
  }
  /// Each expert's best tokens, the first of equals first; NaN is worst.
  void take_tokens(Frame& f, const T* compared, Index g, Index first, Index last, Index e) const {
    constexpr double worst = -std::numeric_limits<double>::infinity();
    Index* order = f.template scratch<Index>();
    for (Index expert = 0; expert < e; ++expert) {
      Index count = 0;
      for (Index i = first; i < last; ++i)
        if (is_token(f, i)) order[count++] = i;
      const auto score = [&](Index i) {
        const auto value = static_cast<double>(compared[i * e + expert]);
        return value == value ? value : worst;
      };
      const Index taken = std::min(options.capacity, count);
      std::partial_sort(order, order + taken, order + count,
                        [&](Index a, Index b) { return score(a) > score(b) || (score(a) == score(b) && a < b); });
      for (Index c = 0; c < taken; ++c) {
        f[slots].data()[order[c] * e + expert] = static_cast<std::int32_t>(slot(expert, g, c));
        f[tokens].data()[slot(expert, g, c)] = static_cast<std::int32_t>(order[c]);
      }
      f[counts].data()[expert] += static_cast<std::int32_t>(taken);
    }
  }
};

}  // namespace ops

/// What `route` decided for N tokens, E experts, k choices a token, G groups of tokens, capacity C.
template <class T>
struct Routing {
  Var<T> gates;               // [N, k]: the chosen scores, greatest first; ones of padding
  Var<std::int32_t> experts;  // [N, k]: whose they are, or -1 of padding
  Var<std::int32_t> slots;    // [N, k]: slot in [0, E G C), or -1 when the expert was full, and of padding
  Var<std::int32_t> tokens;   // [E, G C]: the token in each slot, or -1; without drops [N k], expert by expert
  Var<std::int32_t> counts;   // [E]: slots that are taken
};

/// Sends each token to the `top_k` experts with the greatest of its scores [N, E], slots given out in order of tokens,
/// first choices first (Shazeer et al. 2017; Lepikhin et al. 2021). Only the gates have a gradient. `by` [N, E], where
/// given, is compared instead of the scores; of row b of N / B tokens those from `lengths[b]` on are padding, which
/// goes nowhere.
template <class T>
Routing<T> route(const Var<T>& scores, const RouteOptions& options, const std::type_identity_t<Var<T>>& by = {},
                 const Like<std::int32_t>& lengths = {}) {
  using O = ops::Route<T>;
  const Results results = record(O(options), scores, by ? Argument<T>(stop_gradient(by)) : Argument<T>(), lengths);
  return {results[O::gates], results[O::experts], results[O::slots], results[O::tokens], results[O::counts]};
}

}}  // namespace remat
