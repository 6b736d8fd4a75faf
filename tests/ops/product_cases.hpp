// Rows of matrix products.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/dora.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/low_rank.hpp>
#include <remat/ops/matmul.hpp>

namespace remat_test {

inline void product_cases(const AddCase& row) {
  row({.name = "matmul",
       .fn = [](const auto& in) { return matmul(in[0], in[1]); },
       .inputs = {on({{1, 1}, {1, 1}}), on({{5, 7}, {7, 3}}), on({{33, 17}, {17, 65}}), on({{0, 4}, {4, 3}}),
                  on({{3, 0}, {0, 2}}), on({{2, 3}, {3, 0}}), on({{2, 3, 4}, {4, 5}}), on({{2, 3, 4}, {2, 4, 5}}),
                  on({{2, 3, 4}, {1, 4, 5}}), on({{3, 4}, {2, 4, 5}}), on({{2, 1, 3, 4}, {3, 4, 2}}),
                  on({{2, 1, 3, 4}, {1, 2, 4, 2}}), on({{0, 3, 4}, {4, 2}}), on({{1, 3, 4}, {0, 4, 2}}),
                  on({{200, 150}, {150, 170}})}});
  const auto transposed = [&row](bool a, bool b, std::vector<OpInputs> inputs) {
    row({.name = std::string("matmul of a") + (a ? "^T" : "") + " and b" + (b ? "^T" : ""),
         .fn = [=](const auto& in) { return matmul(in[0], in[1], {.transposed_a = a, .transposed_b = b}); },
         .inputs = std::move(inputs)});
  };
  transposed(true, false,
             {on({{7, 5}, {7, 3}}), on({{2, 4, 3}, {2, 4, 5}}), on({{2, 4, 3}, {4, 5}}), on({{4, 3}, {2, 4, 5}}),
              on({{2, 1, 4, 3}, {1, 2, 4, 2}}), on({{0, 3}, {0, 2}}), on({{150, 200}, {150, 170}})});
  transposed(false, true,
             {on({{5, 7}, {3, 7}}), on({{2, 3, 4}, {2, 5, 4}}), on({{2, 3, 4}, {5, 4}}), on({{3, 4}, {2, 5, 4}}),
              on({{2, 1, 3, 4}, {1, 2, 2, 4}}), on({{3, 0}, {2, 0}}), on({{200, 150}, {170, 150}})});
  transposed(true, true,
             {on({{7, 5}, {3, 7}}), on({{2, 4, 3}, {2, 5, 4}}), on({{2, 4, 3}, {5, 4}}), on({{4, 3}, {2, 5, 4}}),
              on({{2, 1, 4, 3}, {1, 2, 2, 4}}), on({{0, 4, 3}, {5, 4}}), on({{150, 200}, {170, 150}})});
  row({.name = "matmul on itself",
       .fn = [](const auto& in) { return matmul(in[0], in[0]); },
       .inputs = {on({{4, 4}})}});

  const std::vector<OpInputs> linear_inputs = {
      on({{5, 7}, {7, 9}, {9}}), on({{2, 3, 4}, {4, 1}, {1}}), on({{3}, {3, 2}, {2}}),   on({{33, 17}, {17, 65}, {65}}),
      on({{0, 4}, {4, 3}, {3}}), on({{3, 0}, {0, 2}, {2}}),    on({{2, 3}, {3, 0}, {0}})};
  row({.name = "linear", .fn = [](const auto& in) { return linear(in[0], in[1], in[2]); }, .inputs = linear_inputs});
  row({.name = "linear without bias",
       .fn = [](const auto& in) { return linear(in[0], in[1]); },
       .inputs = {on({{5, 7}, {7, 9}}), on({{3, 0}, {0, 2}})}});
  row({.name = "linear transposed",
       .fn = [](const auto& in) { return linear(in[0], in[1], in[2], {.transposed = true}); },
       .inputs = {on({{5, 7}, {9, 7}, {9}}), on({{2, 3, 4}, {1, 4}, {1}})}});
  row({.name = "linear on itself",
       .fn = [](const auto& in) { return linear(in[0], in[0]); },
       .inputs = {on({{4, 4}})}});
  row({.name = "linear with an adapter",
       .fn =
           [](const auto& in) {
             using T = typename std::decay_t<decltype(in)>::type;
             using O = remat::ops::AdaptedLinear<T>;
             using remat::Argument;
             const bool has_z = in.x.size() > 5;
             return record(O(remat::ops::ProductWeight<T>(Argument<T>(in[1]), false), 0.75, has_z), in[0], in[1], in[2],
                           in[3], in[4], has_z ? Argument<T>(in[5]) : Argument<T>())[O::y];
           },
       .inputs = {on({{5, 7}, {7, 9}, {9}, {7, 2}, {2, 9}}), on({{2, 3, 4}, {4, 1}, {1}, {4, 3}, {3, 1}, {2, 3, 4}}),
                  on({{33, 17}, {17, 65}, {65}, {17, 4}, {4, 65}, {33, 17}}), on({{0, 4}, {4, 3}, {3}, {4, 2}, {2, 3}}),
                  on({{3, 4}, {4, 2}, {2}, {4, 0}, {0, 2}})}});
  row({.name = "linear with an adapter of parts",
       .fn =
           [](const auto& in) {
             using T = typename std::decay_t<decltype(in)>::type;
             using O = remat::ops::AdaptedLinear<T>;
             using remat::Argument;
             const Index inner = in[1].shape()[1] - 2;  // column 0, and 2 to the last; not column 1
             return record(O(remat::ops::ProductWeight<T>(Argument<T>(in[1]), false), 0.75, false,
                             {{"a", 0, 1}, {"b", 2, 2 + inner}}),
                           in[0], in[1], in[2], in[3], in[4], Argument<T>())[O::y];
           },
       .inputs = {on({{5, 7}, {7, 9}, {9}, {7, 4}, {2, 8}}), on({{33, 17}, {17, 65}, {65}, {17, 6}, {3, 64}}),
                  on({{0, 4}, {4, 3}, {3}, {4, 4}, {2, 2}})}});
  row({.name = "dora",
       .fn =
           [](const auto& in) {
             using T = typename std::decay_t<decltype(in)>::type;
             using Norms = remat::ops::DoraNorms<T>;
             using O = remat::ops::Dora<T>;
             using remat::Argument;
             const std::vector<remat::MatrixPart> parts{{"a", 1, 3}};
             const auto of = [&](const Shape& shape) { return in.tape.input(Tensor<T>(shape, static_cast<T>(0.5))); };
             const Var<T> norms = record(Norms(remat::ops::ProductWeight<T>(false), 0.5, parts), of({4, 2}), of({2, 2}),
                                         of({4, in[0].shape().back()}))[Norms::norms];
             return record(O(parts), in[0], in[1], in.x.size() > 2 ? Argument<T>(in[2]) : Argument<T>(), norms)[O::y];
           },
       .inputs = {on({{5, 7}, {2}, {7}}), on({{3, 4, 3}, {2}}), on({{9}, {2}, {9}}), on({{1, 100}, {2}}),
                  on({{300, 33}, {2}, {33}}), on({{0, 4}, {2}, {4}})}});
}

}  // namespace remat_test
