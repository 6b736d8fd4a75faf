// Elements by number along an axis: the rule of which goes where, in one order for any number of threads.
#include <gtest/gtest.h>
#include <omp.h>

#include <ops/try_op.hpp>
#include <remat/core/eigen.hpp>
#include <remat/ops/gather.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/scatter_add.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::random_tensor;
using Ids = Tensor<std::int32_t>;

void expect_elements(const Tensor<float>& found, const Shape& shape, const std::vector<float>& expected) {
  EXPECT_EQ(found.shape(), shape);
  ASSERT_EQ(found.size(), static_cast<Index>(expected.size()));
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(found.span()[i], expected[i]) << i;
}

// The examples of PyTorch's and NumPy's documentation.
TEST(Gather, TakesAlongItsAxis) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 2}, {1, 2, 3, 4}), {.wants_gradient = true});
  expect_elements(gather(x, Ids({2, 2}, {0, 0, 1, 0}), 1).value(), {2, 2}, {1, 1, 4, 3});
  const auto rows = gather(x, Ids({1, 2}, {1, 0}), 0);
  expect_elements(rows.value(), {1, 2}, {3, 2});
  const auto often = gather(x, Ids({2, 3}, {1, 1, 0, 1, 1, 1}), -1);
  tape.backward(remat_test::weigh(often));  // -1/2, -1/4, 0, 1/4, 1/2, 3/4
  expect_elements(tape.grad(x), {2, 2}, {0, -0.75, 0, 1.5});
}

// A gradient that has the shape of the result's is still not that of the result.
TEST(Gather, GivesGradientsBackToWhereElementsCameFrom) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 2}, {1, 2, 3, 4}), {.wants_gradient = true});
  tape.backward(remat_test::weigh(gather(x, Ids({2, 2}, {1, 1, 0, 0}), 1)));  // -1/2, -1/4, 0, 1/4
  expect_elements(tape.grad(x), {2, 2}, {0, -0.75, 0.25, 0});
}

TEST(ScatterAdd, AddsAlongItsAxis) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({3, 2}, {1, 1, 1, 1, 1, 1}), {.wants_gradient = true});
  const auto values = tape.input(Tensor<float>({2, 2}, {1, 2, 3, 4}), {.wants_gradient = true});
  const auto y = scatter_add<float>(x, Ids({2, 2}, {2, 0, 2, 1}), values, 0);
  expect_elements(y.value(), {3, 2}, {1, 3, 1, 5, 5, 1});
  tape.backward(remat_test::weigh(y));
  expect_elements(tape.grad(x), {3, 2}, {-0.5, -0.25, 0, 0.25, 0.5, 0.75});
  expect_elements(tape.grad(values), {2, 2}, {0.5, -0.25, 0.5, 0.25});
}

TEST(ScatterAdd, IsTheSameForAnyNumberOfThreads) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 40 * 30 * 70; ++i) ids.push_back(i % 31 * i % 7);
  const auto with = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    Tape tape;
    const auto x = tape.input(random_tensor<float>({40, 7, 70}, 1));
    const Tensor<float> y = scatter_add<float>(x, Ids({40, 30, 70}, std::span<const std::int32_t>(ids)),
                                               random_tensor<float>({40, 30, 70}, 2), 1)
                                .value();
    omp_set_num_threads(before);
    return y;
  };
  const auto one = with(1);
  EXPECT_TRUE(same_bits(one, with(2)));
  EXPECT_TRUE(same_bits(one, with(3)));
}

// Sums in bfloat16 would stand still at 256.
TEST(Gather, SumsOfBfloat16AreFloat) {
  const auto one = static_cast<bfloat16>(1);
  Tape tape;
  const auto x = tape.input(Tensor<bfloat16>({2}, one), {.wants_gradient = true});
  const Tensor<bfloat16> y = scatter_add<bfloat16>(x, Ids({299}, 1), Tensor<bfloat16>({299}, one), 0).value();
  EXPECT_EQ(static_cast<float>(y.span()[1]), 300.0F);
  tape.backward(sum(gather(x, Ids({300}, 1), 0)));
  const Tensor<bfloat16> gradient = tape.grad(x);
  EXPECT_EQ(static_cast<float>(gradient.span()[1]), 300.0F);
}

TEST(Gather, RefusesWhatDoesNotFit) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 3}, 1.0F));
  EXPECT_EQ(error_of([&] {
              gather(x, Ids({2, 2}, {0, 2, 3, 1}), 1);
            }),
            "gather: index 3 at [1, 0], but the axis has 3 elements");
  EXPECT_EQ(error_of([&] {
              scatter_add<float>(x, Ids({1, 3}, -1), Tensor<float>({1, 3}, 1.0F), 0);
            }),
            "scatter_add: index -1 at [0, 0], but the axis has 2 elements");
  EXPECT_EQ(error_of([&] {
              gather(x, Ids({1, 2}, 0), 1);
            }),
            "gather: indices have shape [1, 2], x [2, 3]; they may differ along axis 1 only (slice x, or repeat "
            "indices, to make them fit)");
  EXPECT_EQ(error_of([&] { gather(x, Ids({2}, 0), 1); }),
            "gather: indices have shape [2], x [2, 3]; they may differ along axis 1 only (slice x, or repeat indices, "
            "to make them fit)");
  EXPECT_EQ(error_of([&] {
              scatter_add<float>(x, Ids({2, 2}, 0), Tensor<float>({2, 3}, 1.0F), 1);
            }),
            "scatter_add: values have shape [2, 3], indices [2, 2]; each value needs an index");
}

}  // namespace
