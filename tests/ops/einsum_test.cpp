// einsum: values and gradients of random specs, which ops it is made of, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <ops/try_op.hpp>
#include <random>
#include <remat/autodiff/gradient_check.hpp>
#include <remat/ops/einsum.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
using namespace remat_test;

/// Lengths of the letters; some are 1, for axes of length 1 are in order wherever they stand.
Index length_of(char letter) { return std::vector<Index>{3, 1, 2, 4, 1, 3}[static_cast<std::size_t>(letter - 'a')]; }

Shape shape_of(const std::string& letters) {
  Shape shape;
  for (const char letter : letters) shape.push_back(length_of(letter));
  return shape;
}

/// Every product of elements, letter by letter, added where it belongs.
Tensor<double> naive(const std::vector<std::string>& terms, const std::string& result,
                     const std::vector<Tensor<double>>& operands) {
  Tensor<double> sums(shape_of(result), 0.0);
  const std::string letters = "abcdef";
  std::vector<Index> at(letters.size(), 0);
  std::string all = result;
  for (const std::string& term : terms) all += term;
  const auto place = [&](const std::string& term) {
    Index place = 0;
    for (const char letter : term) place = place * length_of(letter) + at[static_cast<std::size_t>(letter - 'a')];
    return place;
  };
  const auto loop = [&](const auto& self, std::size_t depth) -> void {
    if (depth == letters.size()) {
      double product = 1;
      for (std::size_t i = 0; i < terms.size(); ++i) product *= operands[i][place(terms[i])];
      sums.write()[static_cast<std::size_t>(place(result))] += product;
      return;
    }
    const Index length = all.find(letters[depth]) == std::string::npos ? 1 : length_of(letters[depth]);
    for (at[depth] = 0; at[depth] < length; ++at[depth]) self(self, depth + 1);
    at[depth] = 0;
  };
  loop(loop, 0);
  return sums;
}

// Every order of batch, row, column and summed letters comes up: what is transposed and flagged changes no value.
TEST(Einsum, AgreesWithNaiveLoopsOnRandomSpecs) {
  std::mt19937 random(7);  // NOLINT: the same specs in every run
  const auto draw = [&](std::string from, unsigned most) {
    for (std::size_t i = from.size(); i > 1; --i) std::swap(from[i - 1], from[random() % i]);
    return from.substr(0, random() % (most + 1));
  };
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> terms{draw("abcdef", 4)};
    if (round % 5 != 0) terms.push_back(draw("abcdef", 4));
    std::string all;
    for (const char letter : std::string("abcdef"))
      if ((terms.front() + terms.back()).find(letter) != std::string::npos) all += letter;
    const std::string result = draw(all, static_cast<unsigned>(all.size()));
    const std::string spec = terms[0] + (terms.size() == 2 ? "," + terms[1] : "") + "->" + result;
    SCOPED_TRACE(spec);
    std::vector<Tensor<double>> operands;
    for (const std::string& term : terms) operands.push_back(random_tensor<double>(shape_of(term), operands.size()));
    const auto run = [&](Tape&, const std::vector<Var<double>>& in) {
      return in.size() == 1 ? einsum(spec, in[0]) : einsum(spec, in[0], in[1]);
    };
    Tape tape;
    std::vector<Var<double>> inputs;
    for (const Tensor<double>& operand : operands) inputs.push_back(tape.input(operand));
    const Tensor<double> value = run(tape, inputs).value(), expected = naive(terms, result, operands);
    ASSERT_EQ(value.shape(), expected.shape());
    for (Index i = 0; i < value.size(); ++i) EXPECT_NEAR(value[i], expected[i], 1e-12);
    if (round % 10 < 2) {
      EXPECT_TRUE(gradient_check(run, operands).ok(1e-8)) << gradient_check(run, operands);
    }
  }
}

/// The ops that a tape holds, in order.
std::string ops_of(const std::string& spec, const Shape& a, const Shape& b) {
  Tape tape({.mode = Mode::plan});
  const auto x = tape.input(Tensor<float>(a), {.wants_gradient = true}),
             y = tape.input(Tensor<float>(b), {.wants_gradient = true});
  const auto result = einsum(spec, x, y);
  std::string names;
  for (const Node& node : tape.program().nodes) names += std::string(names.empty() ? "" : " ") + node.op->name();
  return names;
}

// Products whose operands lie as batched matmul reads them, transposed or not, copy nothing.
TEST(Einsum, CopiesOnlyWhatMatmulCannotRead) {
  EXPECT_EQ(ops_of("bhqd,bhkd->bhqk", {2, 3, 5, 7}, {2, 3, 4, 7}), "matmul");
  EXPECT_EQ(ops_of("bhqk,bhkd->bhqd", {2, 3, 5, 7}, {2, 3, 7, 4}), "matmul");
  EXPECT_EQ(ops_of("btd,df->btf", {2, 3, 5}, {5, 4}), "matmul");
  EXPECT_EQ(ops_of("btd,fd->btf", {2, 3, 5}, {4, 5}), "matmul");
  EXPECT_EQ(ops_of("btd,dhe->bthe", {2, 3, 5}, {5, 4, 6}), "matmul");
  EXPECT_EQ(ops_of("bthe,hed->btd", {2, 3, 5, 4}, {5, 4, 6}), "matmul");
  EXPECT_EQ(ops_of("btd,btf->df", {2, 3, 5}, {2, 3, 4}), "matmul");
  EXPECT_EQ(ops_of("bkm,bkn->bnm", {2, 3, 5}, {2, 3, 4}), "matmul");
  EXPECT_EQ(ops_of("jik,kl->jil", {2, 3, 5}, {5, 4}), "matmul");
  EXPECT_EQ(ops_of("bqhd,bkhd->bhqk", {2, 5, 3, 7}, {2, 4, 3, 7}), "transpose transpose matmul");
  EXPECT_EQ(ops_of("bqhd,bkhd->bhqk", {2, 5, 1, 7}, {2, 4, 1, 7}), "matmul");  // one head: in order as it is
  EXPECT_EQ(ops_of("jik,kl->ilj", {2, 3, 5}, {5, 4}), "matmul transpose");
  // A sum comes first; what has nothing to sum, or no rows and columns, is no product of matrices.
  EXPECT_EQ(ops_of("ijx,jk->ik", {2, 3, 5}, {3, 4}), "sum matmul");
  EXPECT_EQ(ops_of("i,j->ij", {2}, {3}), "multiply");
  EXPECT_EQ(ops_of("bi,bi->b", {2, 3}, {2, 3}), "multiply sum");
}

TEST(Einsum, DotsAreAxesWithoutLetters) {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3, 4, 5}, 1)), w = tape.input(random_tensor<double>({5, 6}, 2)),
             k = tape.input(random_tensor<double>({3, 7, 5}, 3));
  const auto same = [](const Var<double>& a, const Var<double>& b) {
    const Tensor<double> u = a.value(), v = b.value();
    return u.shape() == v.shape() && std::equal(u.begin(), u.end(), v.begin());
  };
  EXPECT_TRUE(same(einsum("...d, df -> ...f", x, w), einsum("abcd,df->abcf", x, w)));
  EXPECT_TRUE(same(einsum("...qd,...kd->...qk", x, k), einsum("abqd,bkd->abqk", x, k)));
  EXPECT_TRUE(same(einsum("a...d->d...", x), einsum("abcd->dbc", x)));
}

TEST(Einsum, TakesParametersTensorsAndBfloat16) {
  ParameterRegistry registry;
  const auto w = parameter_of<float>(registry, "w", Tensor<float>({2, 3}, {1, 2, 3, 4, 5, 6}));
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 2}, {1, 0, 1, 1}));
  EXPECT_EQ(einsum("ij,jk->ik", x, w).value()[3], 5);
  EXPECT_EQ(einsum("ji,kj->ik", w, x).value()[1], 5);
  tape.backward(sum(einsum("ij,jk->", x, w) + sum(einsum("ij,j->i", x, Tensor<float>({2}, {1, 2})))));
  EXPECT_EQ(w.grad()[0], 2);
  Tape other;
  const auto half = other.input(Tensor<bfloat16>({1, 2}, bfloat16(2.0F)));
  EXPECT_EQ(static_cast<float>(einsum("ij,jk->ik", half, w).value()[0]), 10);  // a float master, cast
}

TEST(Einsum, RefusalsNameTheLetterAndBothSizes) {
  Tape tape;
  const auto a = tape.input(Tensor<float>({2, 3}, 1.0F)), b = tape.input(Tensor<float>({4, 5}, 1.0F));
  expect_error({"einsum: \"ij,jk->ik\": 'j' has length 3 in [2, 3] and 4 in [4, 5]"},
               [&] { einsum("ij,jk->ik", a, b); });
  expect_error({"axis -1 of ... has length 3 in [2, 3] and 5 in [4, 5]"}, [&] { einsum("i...,j...->ij...", a, b); });
  expect_error({"names no result"}, [&] { einsum("ij,jk", a, b); });
  expect_error({"names 1 operands, the call gives 2"}, [&] { einsum("ij->ij", a, b); });
  expect_error({"names 3 operands, the call gives 2", "calls of two"}, [&] { einsum("ij,jk,kl->il", a, b); });
  expect_error({"\"ijk\" is not one letter for each axis of [2, 3]"}, [&] { einsum("ijk->i", a); });
  expect_error({"\"i...jk\" is not one letter for each axis of [2, 3]"}, [&] { einsum("i...jk->i...", a); });
  expect_error({"'i' stands twice in \"ii\"", "no diagonals"}, [&] { einsum("ii->i", a); });
  expect_error({"'i' stands twice in \"ii\""}, [&] { einsum("ij->ii", a); });
  expect_error({"'k' of the result is in no operand"}, [&] { einsum("ij->ik", a); });
  expect_error({"'1' is no letter"}, [&] { einsum("i1->i", a); });
  expect_error({"... stands in the operands or in the result alone"}, [&] { einsum("...j->j", a); });
  expect_error({"an operand is missing"}, [&] { einsum("ij,jk->ik", a, Parameter<float>()); });
}

}  // namespace
