// Tensors and shapes.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <limits>
#include <remat/core/eigen.hpp>
#include <remat/core/tensor.hpp>
#include <remat/core/xtensor.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of;
using remat_test::expect_error;

// Protects every size computation from wrapping around.
TEST(Shape, CheckedMul) {
  constexpr Index most = std::numeric_limits<Index>::max();
  EXPECT_EQ(checked_mul(3, 4), 12);
  EXPECT_EQ(checked_mul(most, 1), most);
  EXPECT_EQ(checked_mul(most, 0), 0);
  expect_error({"rows", "9223372036854775807 * 2"}, [] { checked_mul(most, 2, "rows"); });
  expect_error({"overflows"}, [] { static_cast<void>(Shape{Index{1} << 32, Index{1} << 32}.size()); });
  expect_error({"overflows"}, [] { Tensor<double>{Shape{Index{1} << 61}}; });
}

// Protects the meaning of shapes, scalars and empty ones included.
TEST(Shape, Basics) {
  const Shape scalar{}, shape{2, 3, 4};
  EXPECT_EQ(scalar.size(), 1);
  EXPECT_EQ(scalar.rows(), 1);
  EXPECT_EQ(scalar.back(), 1);
  EXPECT_EQ(scalar.to_string(), "[]");
  EXPECT_EQ(shape.size(), 24);
  EXPECT_EQ(shape.rows(), 6);
  EXPECT_EQ(shape.drop_last(), (Shape{2, 3}));
  EXPECT_EQ(shape.drop_last().with(4), shape);
  EXPECT_EQ(shape.to_string(), "[2, 3, 4]");
  EXPECT_EQ(shape.axis(-1, "t"), 2);
  EXPECT_EQ((Shape{0, 5}).size(), 0);
  EXPECT_NE((Shape{2, 3}), (Shape{2, 3, 1}));
  EXPECT_EQ(broadcast({4, 1, 3}, {2, 1}, "t"), (Shape{4, 2, 3}));
  EXPECT_EQ(broadcast({0, 1}, {1, 3}, "t"), (Shape{0, 3}));
}

// Protects users: each refusal says the rule and the numbers.
TEST(Shape, ErrorTexts) {
  EXPECT_EQ(error_of([] { Shape{2, -1}; }), "shape: axis 1 has negative length -1");
  EXPECT_EQ(error_of([] { Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; }), "shape: more than 8 axes");
  EXPECT_EQ(error_of([] { Shape{2, 3}.axis(2, "sum"); }), "sum: axis 2 of a tensor with 2 axes");
  EXPECT_EQ(error_of([] { Shape{2, 3}.axis(-3, "sum"); }), "sum: axis -3 of a tensor with 2 axes");
  EXPECT_EQ(error_of([] {
              broadcast({2, 3}, {2, 4}, "add");
            }),
            "add: shapes [2, 3] and [2, 4] do not broadcast at axis 1");
  EXPECT_EQ(error_of([] { Tensor<float>({2}, {1.0F, 2.0F, 3.0F}); }), "tensor: 3 values for shape [2]");
  EXPECT_EQ(error_of([] { Tensor<float>({2, 3}).item(); }), "tensor: item() of shape [2, 3] with 6 elements");
  Tensor<float> empty;  // not the number it was taken for, whose only element was read through a null pointer
  EXPECT_EQ(error_of([&] { empty.item(); }), "tensor: item() of shape [0] with 0 elements");
  EXPECT_THROW(empty[0], Error);
  EXPECT_THROW(empty[0], Error);
  EXPECT_THROW(Tensor<float>()[0], Error);
  EXPECT_TRUE(same_bits(empty, empty.copy()));
  EXPECT_EQ(empty.span().size(), 0U);
  EXPECT_EQ(error_of([] { Tensor<float>({2, 3}).reshape({5}); }), "reshape: 6 elements do not fit shape [5]");
  EXPECT_EQ(error_of([] { Tensor<float>({2, 3}).slice(1, 3); }), "slice: [1, 3) of shape [2, 3]");
  EXPECT_EQ(error_of([] { Tensor<float>(Shape{}).slice(0, 0); }), "slice: [0, 0) of shape []");
  EXPECT_EQ(error_of([] { Tensor<double>(Tensor<float>(Shape{2}).any()); }),
            "tensor: holds float32, asked for float64");
}

// Protects from reading beside the axes: shape[-1], as in Python, was what lies before them in memory.
TEST(Shape, AxesCountFromTheEndAndOthersAreRefused) {
  Shape shape{2, 3, 4};
  EXPECT_EQ(shape[-1], 4);
  EXPECT_EQ(shape[-3], 2);
  shape[-2] = 7;
  EXPECT_EQ(shape, (Shape{2, 7, 4}));
  const Shape scalar;
  for (const int axis : {3, -4, 8, 1 << 30, -(1 << 30)}) {
    expect_error({"shape: axis " + std::to_string(axis), "[2, 7, 4]", "3 axes"},
                 [&] { (void)std::as_const(shape)[axis]; });
    expect_error({"shape: axis " + std::to_string(axis), "[2, 7, 4]"}, [&] { shape[axis] = 1; });
  }
  expect_error({"axis 0", "[]", "a scalar has none"}, [&] { (void)scalar.front(); });
  expect_error({"axis -1", "[]", "a scalar has none"}, [&] { (void)scalar[-1]; });
  EXPECT_EQ(scalar.back(), 1);
  EXPECT_EQ(scalar.rows(), 1);
  // As an op's option, whose name the Error then has.
  EXPECT_EQ(shape.axis(-1, "sum"), 2);
  EXPECT_EQ(shape.axis(-3, "sum"), 0);
  EXPECT_EQ(shape.axis(1, "sum"), 1);
  for (const int axis : {3, -4})
    expect_error({"sum: axis " + std::to_string(axis), "3 axes"}, [&] { (void)shape.axis(axis, "sum"); });
}

// Protects recorded values: a copy shares bytes until one side writes, and then only that side changes.
TEST(Tensor, CopiesOnWrite) {
  Tensor<float> a({2, 2}, {1, 2, 3, 4});
  Tensor<float> b = a;
  const auto& reader = b;
  EXPECT_EQ(reader.data(), a.data());
  b.write()[0] = 9;
  EXPECT_EQ(a[0], 1);
  EXPECT_EQ(reader[0], 9);
  const float* own = reader.data();
  b.write()[1] = 8;  // alone now: no further copy
  EXPECT_EQ(reader.data(), own);
  const Tensor<float> c = a.copy();
  EXPECT_NE(c.data(), a.data());
}

// Protects derivatives: a pointer for writing that is still about changes no copy, no view and no tape's operand.
TEST(Tensor, IsNotSharedWhileASpanMayWriteToIt) {
  Tensor<float> a({2, 2}, {1, 2, 3, 4});
  float* const kept = a.write().data();
  const Tensor<float> copy = a, view = a.reshape({4}), row = a.slice(1, 2);
  const Tensor<float> copy_of_copy = copy;
  EXPECT_EQ(copy_of_copy.data(), copy.data());
  kept[0] = 10;
  kept[2] = 30;
  EXPECT_EQ(a[0], 10);
  EXPECT_EQ(copy[0], 1);
  EXPECT_EQ(view[2], 3);
  EXPECT_EQ(row[0], 3);
  const Tensor<float> moved = std::move(a);
  EXPECT_EQ(moved.data(), kept);
}

// Protects memory: reading, whatever the way, copies nothing of a tensor that is shared.
TEST(Tensor, ReadingCopiesNothing) {
  Tensor<float> a({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor<float> b = a;
  EXPECT_EQ(a[0] + a(1, 2) + a.span()[1] + *a.begin() + *a.data(), 1 + 6 + 2 + 1 + 1);
  float sum = 0;
  for (const float x : a) sum += x;
  EXPECT_EQ(sum, 21);
  EXPECT_EQ(as_eigen(a).sum() + as_xtensor(a)(1, 0), 25);
  EXPECT_EQ(a.data(), b.data());
  EXPECT_EQ((Tensor<float>(Shape{}, 7.0F)()), 7);
  expect_error({"1 indices", "[2, 3]"}, [&] { a(1); });
  expect_error({"index 3", "axis 1", "[2, 3]"}, [&] { a(0, 3); });
  expect_error({"index -1", "axis 0"}, [&] { a(-1, 0); });
}

// Protects views: slices and reshapes share bytes, and writing to one never reaches the other.
TEST(Tensor, SlicesAndReshapesAreViews) {
  const Tensor<int> a({4, 3}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  const Tensor<int> rows = a.slice(1, 3);
  EXPECT_EQ(rows.shape(), (Shape{2, 3}));
  EXPECT_EQ(rows.data(), a.data() + 3);
  const Tensor<int> inner = rows.slice(1, 2), reshaped = a.reshape({2, 6}).slice(1, 2);
  EXPECT_EQ(inner.data(), a.data() + 6);
  EXPECT_EQ(reshaped.data(), a.data() + 6);
  EXPECT_EQ(a.slice(4, 4).size(), 0);
  Tensor<int> written = rows;
  written.write()[0] = 99;
  EXPECT_EQ(a[3], 3);
  EXPECT_EQ(written[5], 8);
  EXPECT_EQ(rows.copy().any().offset, 0);
  EXPECT_EQ(Tensor<int>({0, 3}).slice(0, 0).size(), 0);
  for (const auto& [begin, end] : {std::pair{-1, 2}, {3, 2}, {2, 5}, {5, 5}})
    expect_error({"slice: [" + std::to_string(begin) + ", " + std::to_string(end), "[4, 3]"},
                 [&, begin = begin, end = end] { (void)a.slice(begin, end); });
  expect_error({"slice: [0, 0"}, [] { (void)Tensor<int>(Shape{}, 1).slice(0, 0); });
}

// Protects reshape({-1, n}): the open axis follows from the others, or the Error says why it cannot.
TEST(Tensor, ReshapeFindsOneAxis) {
  const Tensor<int> a({2, 6}, 1), empty({0, 4});
  EXPECT_EQ(a.reshape({-1, 4}).shape(), (Shape{3, 4}));
  EXPECT_EQ(a.reshape({12, -1}).shape(), (Shape{12, 1}));
  EXPECT_EQ(a.reshape({-1}).data(), a.data());
  EXPECT_EQ(a.reshape(a.shape()).shape(), a.shape());
  EXPECT_EQ(Tensor<int>(Shape{}, 1).reshape({-1}).shape(), (Shape{1}));
  EXPECT_EQ(Tensor<int>({1}, 1).reshape({}).shape(), Shape());
  EXPECT_EQ(empty.reshape({-1, 2}).shape(), (Shape{0, 2}));
  const std::vector<Index> lengths{3, -1};
  EXPECT_EQ(a.reshape({lengths.begin(), lengths.end()}).shape(), (Shape{3, 4}));
  expect_error({"12 elements", "[-1, 5]", "5 does not divide"}, [&] { a.reshape({-1, 5}); });
  expect_error({"axes 0 and 2", "both -1"}, [&] { a.reshape({-1, 2, -1}); });
  expect_error({"[0, 4]", "[-1, 0]", "axis of 0"}, [&] { empty.reshape({-1, 0}); });
  expect_error({"axis 1 has negative length -2"}, [&] { a.reshape({6, -2}); });
  expect_error({"more than 8 axes"}, [&] { a.reshape({1, 1, 1, 1, 1, 1, 1, 1, -1}); });
}

// Protects users from views of what is gone: a view of a temporary does not compile, a reference into one is a value.
template <class X>
concept HasEigenView = requires(X x) {
  as_eigen(std::forward<X>(x));
};
template <class X>
concept HasXtensorView = requires(X x) {
  as_xtensor(std::forward<X>(x));
};
template <class X>
concept HasSpan = requires(X x) {
  std::forward<X>(x).span();
};
template <class X>
constexpr bool has_views = HasEigenView<X>&& HasXtensorView<X>&& HasSpan<X>;
template <class X>
constexpr bool has_any_view = HasEigenView<X> || HasXtensorView<X> || HasSpan<X>;
static_assert(has_views<Tensor<float>&> && has_views<const Tensor<float>&>);
static_assert(!has_any_view<Tensor<float>> && !has_any_view<const Tensor<float>>);
template <class X>
concept CanBeWritten = requires(X x) {
  std::forward<X>(x).write();
};
static_assert(CanBeWritten<Tensor<float>&> && !CanBeWritten<const Tensor<float>&> && !CanBeWritten<Tensor<float>>);
static_assert(std::is_same_v<decltype(std::declval<Tensor<float>&>().data()), const float*>);
static_assert(std::is_same_v<decltype(std::declval<Tensor<float>>().shape()), Shape>);
static_assert(std::is_same_v<decltype(std::declval<Tensor<float>>().any()), AnyTensor>);
static_assert(std::is_same_v<decltype(std::declval<Tensor<float>>()[0]), float>);

// Protects bitwise promises from their own ruler.
TEST(Tensor, SameBits) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(same_bits(Tensor<float>({2}, {nan, 1}), Tensor<float>({2}, {nan, 1})));
  EXPECT_FALSE(same_bits(Tensor<float>({1}, {0.0F}), Tensor<float>({1}, {-0.0F})));
  EXPECT_FALSE(same_bits(Tensor<float>({1, 2}, 0.0F), Tensor<float>({2, 1}, 0.0F)));
  EXPECT_TRUE(same_bits(Tensor<float>({0}), Tensor<float>({0})));
  EXPECT_EQ(Tensor<bfloat16>(Shape{}, bfloat16(2)).item(), bfloat16(2));
}

// Protects memory: a tensor's bytes return to the pool.
TEST(Tensor, ReturnsItsBytes) {
  const std::size_t live = pool().live_bytes();
  {
    Tensor<float> a({100, 100}, 1.0F), b = a, c = a.slice(1, 2);
    EXPECT_EQ(pool().live_bytes(), live + 40000);
    b.write()[0] = 2;
    EXPECT_EQ(pool().live_bytes(), live + 80000);
  }
  EXPECT_EQ(pool().live_bytes(), live);
}

// Protects the bridge to xtensor: no copy on the way out, row-major values on the way in, printing.
TEST(Tensor, Xtensor) {
  Tensor<double> a({2, 3}, {1, 2, 3, 4, 5, 6});
  write_as_xtensor(a)(1, 2) = 60;
  EXPECT_EQ(a[5], 60);
  EXPECT_EQ(&as_xtensor(a)(0, 0), a.data());
  const Tensor<double> back(as_xtensor(a) * 2.0);
  EXPECT_TRUE(same_bits(back, Tensor<double>({2, 3}, {2, 4, 6, 8, 10, 120})));
  const Tensor<float> transposed(xt::transpose(xt::xarray<double>{{1, 2}, {3, 4}, {5, 6}}));
  EXPECT_TRUE(same_bits(transposed, Tensor<float>({2, 3}, {1, 3, 5, 2, 4, 6})));
  EXPECT_TRUE(same_bits(Tensor<double>(as_xtensor(a)), a));
  const Tensor<float> empty({0, 3});
  EXPECT_EQ(Tensor<float>(as_xtensor(empty)).shape(), (Shape{0, 3}));
  std::ostringstream text;
  text << Tensor<int>({2, 2}, {1, 2, 3, 4});
  EXPECT_EQ(text.str(), "{{1, 2},\n {3, 4}}");
}

// Protects the bridge to Eigen: leading axes collapse, no copy out, expressions and column-major matrices in.
TEST(Tensor, Eigen) {
  Tensor<float> a({2, 1, 3}, {1, 2, 3, 4, 5, 6});
  EXPECT_EQ(as_eigen(a).rows(), 2);
  write_as_eigen(a)(1, 0) = 40;
  EXPECT_EQ(a[3], 40);
  EXPECT_EQ(as_eigen(a).data(), a.data());
  Eigen::MatrixXd columns(2, 3);
  columns << 1, 2, 3, 4, 5, 6;
  EXPECT_TRUE(same_bits(Tensor<double>(columns), Tensor<double>({2, 3}, {1, 2, 3, 4, 5, 6})));
  EXPECT_TRUE(same_bits(Tensor<float>(columns.transpose() * 2), Tensor<float>({3, 2}, {2, 8, 4, 10, 6, 12})));
  const Eigen::VectorXd vector = Eigen::VectorXd::Constant(3, 2);
  EXPECT_TRUE(same_bits(Tensor<double>(vector), Tensor<double>({3}, 2.0)));
  EXPECT_EQ(as_eigen(a).sum(), 1 + 2 + 3 + 40 + 5 + 6);
}

}  // namespace
