#include <gtest/gtest.h>
#include <omp.h>

#include <ops/try_op.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/ops/positions.hpp>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::parameter_of, remat_test::random_tensor, remat_test::weigh;
using remat_test::weight_of;
using Ids = Tensor<std::int32_t>;

TEST(Embedding, TakesRows) {
  const auto table = random_tensor<float>({5, 3}, 1);
  const Ids ids({2, 2}, {4, 0, 4, 1});
  Tape tape;
  const auto y = embedding(tape.input(ids), tape.input(table)).value();
  ASSERT_EQ(y.shape(), (Shape{2, 2, 3}));
  for (Index i = 0; i < 4; ++i)
    for (Index j = 0; j < 3; ++j) EXPECT_EQ(y[i * 3 + j], table[ids[i] * 3 + j]);
}

// Repeated ids add up, rows without an id get zero, a second step adds to the first; 130 columns are three tasks.
TEST(Embedding, AddsUpGradients) {
  const Ids ids({300}, 2);
  const auto gradient = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    ParameterRegistry registry;
    const auto table = parameter_of(registry, "table", random_tensor<float>({4, 130}, 1));
    for (int step = 0; step < 2; ++step) {
      Tape tape;
      tape.backward(weigh(embedding(tape.input(ids), table)));
    }
    omp_set_num_threads(before);
    return table.grad().copy();
  };
  const auto one = gradient(1), three = gradient(3);
  EXPECT_TRUE(same_bits(one, three));
  for (Index j = 0; j < 130; ++j) {
    double sum = 0;
    for (Index i = 0; i < 300; ++i) sum += 2 * double{weight_of<float>(i * 130 + j)};
    EXPECT_NEAR(one[2 * 130 + j], sum, 1e-4);
    for (const Index row : {0, 1, 3}) EXPECT_EQ(one[row * 130 + j], 0.0F);
  }
}

TEST(Embedding, RefusesIdsOutOfRange) {
  const auto message = [](const Ids& ids, Index rows) {
    Tape tape;
    const auto here = tape.layer("decoder/embedding");
    const auto table = tape.input(Tensor<float>({rows, 2}, 0.0F));
    return error_of([&] { embedding(tape.input(ids), table); });
  };
  EXPECT_EQ(message(Ids({2, 3}, {0, 1, 2, 3, 4, 65}), 65),
            "embedding: id 65 at [1, 2], but the table has 65 rows (in decoder/embedding)");
  EXPECT_EQ(message(Ids({2}, {0, -1}), 65),
            "embedding: id -1 at [1], but the table has 65 rows (in decoder/embedding)");
  EXPECT_EQ(message(Ids({1}, {0}), 0), "embedding: id 0 at [0], but the table has 0 rows (in decoder/embedding)");
  Tape tape;
  EXPECT_NO_THROW(embedding(tape.input(Ids({0})), tape.input(Tensor<float>({0, 2}))));
  EXPECT_EQ(error_of([&] { embedding(tape.input(Ids({1}, 0)), tape.input(Tensor<float>({3}, 0.0F))); }),
            "embedding: the table has shape [3], a matrix is needed");
}

TEST(AddPositions, AddsRowsFromAnOffsetOn) {
  const auto x = random_tensor<float>({2, 3, 4}, 1), table = random_tensor<float>({6, 4}, 2);
  ParameterRegistry registry;
  const auto positions = parameter_of(registry, "positions", table);
  Tape tape;
  const auto in = tape.input(x, {.wants_gradient = true});
  const auto y = add_positions(in, positions, 2);
  for (Index i = 0; i < 6; ++i)
    for (Index j = 0; j < 4; ++j) EXPECT_EQ(y.value()[i * 4 + j], x[i * 4 + j] + table[(2 + i % 3) * 4 + j]);
  tape.backward(weigh(y));
  EXPECT_EQ(tape.stats().saved_bytes, 0U);
  const auto gradient = positions.grad();
  for (Index s = 0; s < 6; ++s) {
    for (Index j = 0; j < 4; ++j) {
      const Index at = (s - 2) * 4 + j;
      const bool is_used = s >= 2 && s < 5;
      EXPECT_EQ(gradient[s * 4 + j], is_used ? weight_of<float>(at) + weight_of<float>(at + 12) : 0.0F);
    }
  }
  for (Index i = 0; i < 24; ++i) EXPECT_EQ(tape.grad(in)[i], weight_of<float>(i));
}

TEST(AddPositions, RefusesWhatDoesNotFit) {
  ParameterRegistry registry;
  const auto positions = parameter_of(registry, "positions", Tensor<float>({8, 4}, 0.0F));
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 7, 4}, 0.0F));
  EXPECT_NO_THROW(add_positions(x, positions, 1));
  EXPECT_EQ(error_of([&] { add_positions(x, positions, 2); }),
            "add_positions: x takes positions [2, 9), test/positions has 8 rows");
  EXPECT_EQ(error_of([&] { add_positions(x, positions, -1); }),
            "add_positions: x takes positions [-1, 6), test/positions has 8 rows");
  EXPECT_EQ(error_of([&] {
              add_positions(x.reshape({2, 14, 2}), positions);
            }),
            "add_positions: x has 2 features, test/positions has 4");
}

}  // namespace
