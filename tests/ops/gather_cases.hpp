// Rows of ops that read or write where integers say: gathers, embeddings, positions, routes.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/combine_rows.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/ops/gather.hpp>
#include <remat/ops/grouped_matmul.hpp>
#include <remat/ops/load_balancing_loss.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/route.hpp>
#include <remat/ops/router_z_loss.hpp>
#include <remat/ops/scatter_add.hpp>
#include <remat/ops/take_rows.hpp>
#include <remat/ops/unary.hpp>

namespace remat_test {

/// Scores [N, E] moved so far apart in each row that small steps choose no other experts; E is no multiple of 3.
template <class T>
Var<T> apart(const Var<T>& scores) {
  Tensor<T> offsets(scores.shape());
  const Index experts = scores.shape()[1];
  for (Index i = 0; i < offsets.size(); ++i)
    offsets.write()[i] = static_cast<T>(4 * ((3 * (i % experts) + i / experts) % experts));
  return scores + offsets;
}

inline void gather_cases(const AddCase& row) {
  const auto gather_inputs = [](bool has_values) {
    const auto one = [=](const Shape& x, const Integers& at) {
      return has_values ? on({x, at.shape}, {at}) : on({x}, {at});
    };
    return std::vector<OpInputs>{one({5, 3}, {.shape = {5, 7}, .limit = 3}),
                                 one({2, 3, 4}, {.shape = {2, 6, 4}, .limit = 3}),
                                 one({2, 9, 70}, {.shape = {2, 4, 70}, .limit = 9}),
                                 one({0, 3}, {.shape = {0, 2}, .limit = 3}),
                                 one({3, 0}, {.shape = {3, 0}}),
                                 one({2, 3}, {.shape = {2, 0}, .limit = 3})};
  };
  row({.name = "gather",
       .fn = [](const auto& in) { return gather(in[0], in.integers[0], 1); },
       .inputs = gather_inputs(false)});
  row({.name = "gather on axis 0",
       .fn = [](const auto& in) { return gather(in[0], in.integers[0], -in[0].shape().rank()); },
       .inputs = {on({{5}}, {{.shape = {9}, .limit = 5}}), on({{5, 70}}, {{.shape = {3, 70}, .limit = 5}})}});
  row({.name = "scatter_add",
       .fn =
           [](const auto& in) {
             using T = typename std::decay_t<decltype(in)>::type;
             return scatter_add<T>(in[0], in.integers[0], in[1], 1);
           },
       .inputs = gather_inputs(true)});

  row({.name = "embedding",
       .fn = [](const auto& in) { return embedding(in.integers[0], in[0]); },
       .inputs = {on({{5, 7}}, {{.shape = {3, 4}, .limit = 5}}), on({{9, 130}}, {{.shape = {6}, .limit = 9}}),
                  on({{5, 3}}, {{.shape = {}, .limit = 5}}), on({{4, 3}}, {{.shape = {0}, .limit = 4}}),
                  on({{4, 0}}, {{.shape = {2}, .limit = 4}}), on({{1, 1}}, {{.shape = {1}, .limit = 1}})}});
  row({.name = "take_rows",
       .fn = [](const auto& in) { return take_rows(in[0], in.integers[0]); },
       .inputs = {on({{5, 7}}, {{.shape = {2, 3}, .values = {4, -1, 0, 4, 2, -1}}}),
                  on({{9, 130}}, {{.shape = {12}, .limit = 9}}), on({{0, 3}}, {{.shape = {2}, .values = {-1, -1}}}),
                  on({{4, 3}}, {{.shape = {0}, .limit = 4}}), on({{4, 0}}, {{.shape = {2}, .limit = 4}})}});
  row({.name = "combine_rows",
       .fn = [](const auto& in) { return combine_rows(in[0], in.integers[0], in[1]); },
       .inputs = {on({{5, 7}, {3, 2}}, {{.shape = {3, 2}, .values = {4, -1, 0, 4, -1, -1}}}),
                  on({{9, 130}, {7, 3}}, {{.shape = {7, 3}, .limit = 9}}),
                  on({{1, 1}, {1, 1}}, {{.shape = {1, 1}, .limit = 1}}),
                  on({{4, 3}, {0, 2}}, {{.shape = {0, 2}, .limit = 4}}),
                  on({{4, 0}, {2, 1}}, {{.shape = {2, 1}, .limit = 4}})}});
  row({.name = "route",
       .fn = [](const auto& in) { return route(apart(in[0]), {.top_k = 2, .capacity = 3}).gates; },
       .inputs = {on({{6, 4}}), on({{40, 5}}), on({{0, 2}}), on({{200, 130}})}});
  row({.name = "route to experts and back",  // some are full, some stay empty
       .fn =
           [](const auto& in) {
             const auto to = route(apart(in[0]), {.top_k = 1, .capacity = 2});
             const Index experts = to.tokens.shape()[0], d = in[1].shape()[1];
             return combine_rows(sin(take_rows(in[1], to.tokens)).reshape({2 * experts, d}), to.slots, to.gates);
           },
       .inputs = {on({{9, 4}, {9, 5}}), on({{3, 7}, {3, 33}})}});
  row({.name = "route by other scores, in groups, without padding",
       .fn =
           [](const auto& in) {
             return route(in[0], {.top_k = 2, .capacity = 2, .groups = 2}, apart(stop_gradient(in[0])), in.integers[0])
                 .gates;
           },
       .inputs = {on({{8, 4}}, {{.shape = {2}, .values = {3, 4}}})}});
  row({.name = "route to tokens that experts choose",
       .fn =
           [](const auto& in) {
             const auto to = route(in[0], {.capacity = 2, .expert_choice = true}, apart(stop_gradient(in[0])));
             const Index experts = to.tokens.shape()[0], d = in[1].shape()[1];
             return combine_rows(sin(take_rows(in[1], to.tokens)).reshape({2 * experts, d}), to.slots, to.gates);
           },
       .inputs = {on({{9, 4}, {9, 5}})}});
  row({.name = "route without drops",
       .fn =
           [](const auto& in) {
             const auto to = route(apart(in[0]), {.top_k = 2, .dropless = true}, {}, in.integers[0]);
             return combine_rows(grouped_matmul(take_rows(in[1], to.tokens), in[2], to.counts), to.slots, to.gates);
           },
       .inputs = {on({{9, 4}, {9, 5}, {4, 5, 3}}, {{.shape = {3}, .values = {2, 3, 0}}})}});
  row({.name = "grouped_matmul",
       .fn = [](const auto& in) { return grouped_matmul(in[0], in[1], in.integers[0]); },
       .inputs = {on({{7, 3}, {3, 3, 4}}, {{.shape = {3}, .values = {2, 0, 4}}}),
                  on({{40, 33}, {2, 33, 17}}, {{.shape = {2}, .values = {31, 9}}}),
                  on({{1, 1}, {1, 1, 1}}, {{.shape = {1}, .values = {1}}}),
                  on({{5, 7}, {1, 7, 3}}, {{.shape = {1}, .values = {5}}}),
                  on({{0, 3}, {2, 3, 2}}, {{.shape = {2}, .values = {0, 0}}})}});
  row({.name = "router_z_loss",
       .fn = [](const auto& in) { return router_z_loss(in[0], in.integers[0]); },
       .inputs = {on({{6, 4}}, {{.shape = {6, 1}, .values = {0, 1, -1, 0, 0, -1}}}), on({{1, 1}}, {{.shape = {1, 1}}}),
                  on({{7, 5}}, {{.shape = {7, 1}, .limit = 5}}), on({{33, 2}}, {{.shape = {33, 2}, .limit = 2}}),
                  on({{500, 33}}, {{.shape = {500, 1}, .limit = 33}}), on({{0, 3}}, {{.shape = {0, 1}}})}});
  row({.name = "load_balancing_loss of all choices",
       .fn = [](const auto& in) { return load_balancing_loss(in[0], in.integers[0], remat::BalancedChoices::all); },
       .inputs = {on({{5, 4}}, {{.shape = {5, 2}, .values = {0, 1, -1, -1, 3, 2, 0, 3, -1, -1}}})}});
  row({.name = "load_balancing_loss",
       .fn = [](const auto& in) { return load_balancing_loss(in[0], in.integers[0]); },
       .inputs = {on({{6, 4}}, {{.shape = {6, 2}, .limit = 4}}), on({{1, 1}}, {{.shape = {1, 1}, .limit = 1}}),
                  on({{7, 5}}, {{.shape = {7, 1}, .limit = 5}}), on({{500, 33}}, {{.shape = {500, 1}, .limit = 33}}),
                  on({{0, 3}}, {{.shape = {0, 1}, .limit = 3}})}});
  row({.name = "add_positions",
       .fn = [](const auto& in) { return add_positions(in[0], in[1], 2); },
       .inputs = {on({{3, 4, 5}, {6, 5}}), on({{4, 33}, {9, 33}}), on({{1, 1, 1}, {3, 1}}), on({{2, 7, 33}, {9, 33}}),
                  on({{0, 4, 5}, {6, 5}}), on({{2, 0, 5}, {2, 5}})}});
}

}  // namespace remat_test
