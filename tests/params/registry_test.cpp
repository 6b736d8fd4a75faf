// Parameters under their paths, and the one rule of sharing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <core/expect_error.hpp>
#include <memory>
#include <remat/core/eigen.hpp>
#include <remat/params/copy_values.hpp>
#include <remat/params/registry.hpp>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of;
using remat_test::expect_error;
using Paths = std::vector<std::string>;

Paths paths(const ParameterRegistry& parameters) {
  Paths all;
  for (const auto& entry : parameters.entries()) all.push_back(entry->path);
  return all;
}

// A feed-forward of 8 to 8: a linear and a bias, each of which may be shared, as Praxis's tests build it.
struct FeedForward {
  std::string shared_weight_id{}, linear_id{};
  void build(const Scope& where) const {
    const Scope scope = where.shared_as(shared_weight_id);
    (scope / "linear").shared_as(linear_id).parameter<float>("w", {8, 8}, init::xavier_uniform(8, 8));
    (scope / "bias").parameter<float>("b", {8}, init::zeros());
  }
};

// Protects the tree: names as the layers gave them, each value once, in order of path.
TEST(Registry, NamesParametersByPath) {
  ParameterRegistry parameters;
  const Scope decoder = parameters / "decoder";
  const auto w = (decoder / "layer_0" / "ffn").parameter<float>("w", {3, 4}, init::normal(1));
  const auto b = decoder.parameter<double>("b", {5}, init::constant(2.5));
  EXPECT_EQ(w.path(), "decoder/layer_0/ffn/w");
  EXPECT_EQ(paths(parameters), (Paths{"decoder/b", "decoder/layer_0/ffn/w"}));
  EXPECT_EQ(parameters.count(), 17);
  EXPECT_EQ(b.value()[4], 2.5);
  EXPECT_TRUE(same_bits(parameters.at<float>("decoder/layer_0/ffn/w").value(), w.value()));
  EXPECT_EQ(error_of([&] { parameters.at<float>("decoder/c"); }),
            "parameters: no parameter at decoder/c; the nearest names are \"decoder/b\", \"decoder/layer_0/ffn/w\"");
  EXPECT_EQ(error_of([&] { parameters.at<float>("decoder/b"); }), "decoder/b: holds float64, asked for float32");
  expect_error({"one word", "\"a/b\""}, [&] { parameters / "a/b"; });
  expect_error({"decoder", "one word", "\"\""}, [&] { decoder / ""; });
}

// Protects from looking in vain: the path that was meant is named, as the file reader names it.
TEST(Registry, AnUnknownPathIsAnsweredByNearOnes) {
  ParameterRegistry parameters;
  expect_error({"no parameter at gpt/w; none has been made yet"}, [&] { parameters.at<float>("gpt/w"); });
  for (const char* layer : {"layer_0", "layer_1", "layer_2", "layer_3"})
    for (const char* name : {"w", "b"})
      (parameters / "gpt" / "decoder" / layer).parameter<float>(name, {2}, init::zeros());
  expect_error({"no parameter at gpt/decoder/layer0/w; the nearest names are \"gpt/decoder/layer_0/w\""},
               [&] { parameters.at<float>("gpt/decoder/layer0/w"); });
  expect_error({"the nearest names are \"gpt/decoder/layer_2/b\""}, [&] { parameters.at<float>("layer_2/b"); });
}

// Protects the form "where: what": no error begins with a colon.
TEST(Registry, ErrorsBeginWithAPlace) {
  ParameterRegistry parameters;
  expect_error({"parameters: a scope's name must be one word, got \"a/b\""}, [&] { parameters / "a/b"; });
  expect_error({"parameters: a scope's name must be one word, got \"\""}, [&] { parameters / ""; });
  expect_error({"a: a parameter needs a name"}, [&] { (parameters / "a").parameter<float>("", {2}, init::zeros()); });
}

// Protects memory: neither elements nor bytes wrap around to a small block that is then written beyond.
TEST(Registry, SizesThatOverflowAreRefused) {
  ParameterRegistry parameters;
  const Scope scope = parameters / "layer";
  expect_error({"layer/w: ", "overflows"}, [&] { scope.parameter<float>("w", {Index{1} << 62}, init::zeros()); });
  expect_error({"overflows"}, [&] { scope.parameter<float>("w", {Index{1} << 32, Index{1} << 32}, init::zeros()); });
  EXPECT_EQ(parameters.entries().size(), 0U);
  const AnyTensor tensor{DType::float32, {Index{1} << 62}};
  expect_error({"overflows"}, [&] { (void)tensor.bytes(); });
  expect_error({"pool: "}, [] { pool().allocate(SIZE_MAX); });
}

// Protects users of optional parameters: the bias of a layer without one was read through a null pointer.
TEST(Registry, AParameterThatWasNeverMadeIsAnError) {
  const Parameter<float> none;
  EXPECT_FALSE(none);
  EXPECT_EQ(none.entry(), nullptr);
  const auto refuses = [](auto&& use) { expect_error({"parameter", "no scope has made it"}, use); };
  refuses([&] { none.path(); });
  refuses([&] { none.shape(); });
  refuses([&] { none.size(); });
  refuses([&] { none.value(); });
  refuses([&] { none.set_value(Tensor<float>({1}, 0.0F)); });
  refuses([&] { none.grad(); });
  refuses([&] { none.set_grad(Tensor<float>({1}, 0.0F)); });
  refuses([&] { none.has_grad(); });
  refuses([&] { none.zero_grad(); });
}

// Protects training: gradients start as zeros, are the parameter's own, and values are replaced as a whole.
TEST(Registry, GradientsAndValues) {
  ParameterRegistry parameters;
  auto w = (parameters / "l").parameter<float>("w", {2, 2}, init::ones());
  EXPECT_FALSE(w.has_grad());
  EXPECT_TRUE(same_bits(w.grad(), Tensor<float>({2, 2}, 0.0F)));
  EXPECT_FALSE(w.has_grad());  // looking at a gradient must not make an optimizer decay a frozen parameter
  w.set_grad(Tensor<float>({2, 2}, 5.0F));
  EXPECT_TRUE(w.has_grad());
  EXPECT_EQ(parameters.at<float>("l/w").grad()[0], 5);
  parameters.zero_grad();
  EXPECT_FALSE(w.has_grad());
  EXPECT_EQ(w.grad()[0], 0);
  Tensor<float> mine({2, 2}, 3.0F);
  w.set_value(mine);
  mine.write()[0] = 7;
  EXPECT_EQ(parameters.at<float>("l/w").value()[0], 3);
  EXPECT_EQ(error_of([&] { w.set_value(Tensor<float>({4}, 0.0F)); }), "l/w: has shape [2, 2], was given [4]");
}

// Protects what users add up beside a tape's peak: values and casts, and gradients from when they are made until they
// are freed, those of shared parameters once.
TEST(Registry, BytesAreWhatItHolds) {
  ParameterRegistry parameters;
  const FeedForward shared{.shared_weight_id = "ffn"};
  shared.build(parameters / "root" / "sub1");
  shared.build(parameters / "root" / "sub2");
  (parameters / "l").parameter<double>("w", {3}, init::ones());
  EXPECT_EQ(parameters.bytes(), 72 * sizeof(float) + 3 * sizeof(double));
  EXPECT_EQ(parameters.grad_bytes(), 0U);
  parameters.at<double>("l/w").grad();
  parameters.zero_grad();  // keeps them for the next step
  EXPECT_EQ(parameters.grad_bytes(), 3 * sizeof(double));
  EXPECT_EQ(parameters.bytes(), 72 * sizeof(float) + 6 * sizeof(double));
  parameters.freeze("l/*");
  EXPECT_EQ(parameters.grad_bytes(), 0U);
  const std::size_t held = pool().live_bytes();
  const ParameterRegistry copy(parameters);
  EXPECT_LE(copy.bytes(), pool().live_bytes() - held);  // blocks are rounded up
  EXPECT_EQ(copy.bytes(), parameters.bytes());
  auto& entry = *parameters.at<float>("shared/ffn/bias/b").entry();
  entry.cast = Tensor<bfloat16>({8}).any();  // as a tape that computes in bfloat16 makes it
  EXPECT_EQ(parameters.bytes(), copy.bytes() + 8 * sizeof(bfloat16));
}

// Protects S1: one id on two whole feed-forwards is one set of weights.
TEST(Sharing, AWholeLayer) {
  ParameterRegistry parameters;
  const FeedForward shared{.shared_weight_id = "ffn"};
  shared.build(parameters / "root" / "sub1");
  shared.build(parameters / "root" / "sub2");
  EXPECT_EQ(paths(parameters), (Paths{"shared/ffn/bias/b", "shared/ffn/linear/w"}));
  EXPECT_EQ(parameters.count(), 72);
  EXPECT_EQ(parameters.shared_ids().at("ffn"), (Paths{"root/sub1", "root/sub2"}));
  EXPECT_EQ(parameters.at<float>("shared/ffn/bias/b").entry()->users, (Paths{"root/sub1/bias/b", "root/sub2/bias/b"}));
}

// Protects S2: one id on the linear inside shares the linear only.
TEST(Sharing, AnInnerLayer) {
  ParameterRegistry parameters;
  const FeedForward layer{.linear_id = "w"};
  layer.build(parameters / "root" / "sub1");
  layer.build(parameters / "root" / "sub2");
  EXPECT_EQ(paths(parameters), (Paths{"root/sub1/bias/b", "root/sub2/bias/b", "shared/w/w"}));
  EXPECT_EQ(parameters.count(), 80);
}

// Protects S3: a shared part inside a shared whole; the linear has 4 users, each bias 2.
TEST(Sharing, ASharedPartInASharedWhole) {
  ParameterRegistry parameters;
  for (const char* name : {"sub1", "sub2"}) {
    const Scope parent = (parameters / "root" / name).shared_as("parent");
    for (const char* child : {"sub1", "sub2"}) FeedForward{.linear_id = "linear"}.build(parent / child);
  }
  EXPECT_EQ(paths(parameters), (Paths{"shared/linear/w", "shared/parent/sub1/bias/b", "shared/parent/sub2/bias/b"}));
  EXPECT_EQ(parameters.count(), 80);
  EXPECT_EQ(parameters.at<float>("shared/linear/w").entry()->users.size(), 4U);
  EXPECT_EQ(parameters.at<float>("shared/parent/sub1/bias/b").entry()->users,
            (Paths{"root/sub1/sub1/bias/b", "root/sub2/sub1/bias/b"}));
}

// Protects the seed of this project: 24 layers, 6 sets of attention weights, 24 of everything else.
TEST(Sharing, SixSetsForTwentyFourLayers) {
  ParameterRegistry parameters;
  for (int i = 0; i < 24; ++i) {
    const Scope layer = parameters / "decoder" / ("layer_" + std::to_string(i));
    (layer / "attention").shared_as("attn_" + std::to_string(i % 6)).parameter<float>("w", {4, 4}, init::normal(1));
    (layer / "ffn").parameter<float>("w", {4, 8}, init::normal(1));
  }
  EXPECT_EQ(parameters.entries().size(), 30U);
  EXPECT_EQ(parameters.count(), 6 * 16 + 24 * 32);
  for (const auto& [id, users] : parameters.shared_ids()) EXPECT_EQ(users.size(), 4U) << id;
}

// Protects against sharing by accident: what differs is refused, and both askers are named.
TEST(Sharing, OneIdMeansOneShapeTypeAndInitializer) {
  ParameterRegistry parameters;
  const Scope first = (parameters / "a").shared_as("s"), second = (parameters / "b").shared_as("s");
  first.parameter<float>("w", {2, 3}, init::normal(0.02));
  EXPECT_EQ(error_of([&] {
              second.parameter<float>("w", {3, 2}, init::normal(0.02));
            }),
            "shared/s/w: b/w asks for float32[3, 2] normal(0.02), but a/w made it as float32[2, 3] normal(0.02)");
  expect_error({"b/w", "a/w", "float64"}, [&] { second.parameter<double>("w", {2, 3}, init::normal(0.02)); });
  expect_error({"b/w", "a/w", "normal(0.03)"}, [&] { second.parameter<float>("w", {2, 3}, init::normal(0.03)); });
  expect_error({"b/w", "a/w", "constant(0.02)"}, [&] { second.parameter<float>("w", {2, 3}, init::constant(0.02)); });
  second.parameter<float>("w", {2, 3}, init::normal(0.02));
  EXPECT_EQ(parameters.entries().size(), 1U);
}

// Protects against one layer built twice: without an id a path has one owner.
TEST(Sharing, WithoutAnIdAPathHasOneOwner) {
  ParameterRegistry parameters;
  const Scope scope = parameters / "a";
  scope.parameter<float>("w", {2}, init::zeros());
  expect_error({"a/w: the scope a is taken already", "a/w owns it", "under another scope", "shared_weight_id"},
               [&] { scope.parameter<float>("w", {2}, init::zeros()); });
  const Scope shared = scope.shared_as("s");
  shared.parameter<float>("w", {2}, init::zeros());
  expect_error({"shared/s/w", "a/w", "twice"}, [&] { shared.parameter<float>("w", {2}, init::zeros()); });
}

// Protects against endless nesting and ids that are no names.
TEST(Sharing, RefusesBadIds) {
  ParameterRegistry parameters;
  const Scope outer = (parameters / "a").shared_as("s");
  EXPECT_EQ(error_of([&] { (outer / "b").shared_as("t").shared_as("s"); }),
            "a/b: shared_weight_id \"s\" is used inside itself; give the inner layer another id");
  expect_error({"a", "\"x/y\"", "'/'"}, [&] { (parameters / "a").shared_as("x/y"); });
  EXPECT_EQ((parameters / "a").shared_as("").path(), "a");
  EXPECT_EQ(outer.path(), "shared/s");
  EXPECT_EQ(outer.use_path(), "a");
}

// Protects against typing mistakes in ids: one that has one user is reported.
TEST(Sharing, ReportsIdsWithOneUser) {
  ParameterRegistry parameters;
  for (const char* name : {"a", "b"})
    (parameters / name).shared_as("both").parameter<float>("w", {2, 3}, init::zeros());
  (parameters / "c").shared_as("alone").parameter<float>("w", {4}, init::zeros());
  EXPECT_EQ(parameters.single_user_ids(), (Paths{"alone"}));
  std::ostringstream text;
  text << parameters;
  EXPECT_EQ(text.str(),
            "parameter       shape                    count  users\n"
            "shared/alone/w  [4]                          4  1\n"
            "shared/both/w   [2, 3]                       6  2 (shared)\n"
            "total                                       10  \n"
            "note: shared_weight_id \"alone\" has one user: c\n");
}

// Protects "initial values depend on nothing but seed and path": order of building, other layers, other registries.
TEST(Registry, InitialValuesDependOnSeedAndPathOnly) {
  const auto build = [](std::uint64_t seed, const std::vector<std::string>& order) {
    ParameterRegistry parameters(seed);
    for (const auto& name : order) {
      (parameters / name).shared_as("s").parameter<float>("w", {4, 4}, init::normal(1));
      (parameters / name).parameter<float>("own", {4, 4}, init::normal(1));
    }
    return parameters;
  };
  const auto forward = build(1, {"a", "b", "c"}), backward = build(1, {"c", "b", "a"}),
             other = build(2, {"a", "b", "c"});
  EXPECT_EQ(paths(forward), paths(backward));
  for (const auto& path : paths(forward)) {
    const auto value = forward.at<float>(path).value();
    EXPECT_TRUE(same_bits(value, backward.at<float>(path).value())) << path;
    EXPECT_FALSE(same_bits(value, other.at<float>(path).value())) << path;
  }
  EXPECT_FALSE(same_bits(forward.at<float>("a/own").value(), forward.at<float>("b/own").value()));
}

// Protects two models in one program: equal ids, no cross-talk.
TEST(Registry, TwoRegistriesAreStrangers) {
  ParameterRegistry left(1), right(1);
  auto a = (left / "a").shared_as("s").parameter<float>("w", {2}, init::normal(1));
  const auto b = (right / "b").shared_as("s").parameter<float>("w", {2}, init::normal(1));
  EXPECT_TRUE(same_bits(a.value(), b.value()));
  a.grad();
  a.set_value(Tensor<float>({2}, 0.0F));
  EXPECT_FALSE(b.has_grad());
  EXPECT_NE(b.value()[0], 0);
  EXPECT_EQ(left.shared_ids().at("s"), (Paths{"a"}));
  EXPECT_EQ(right.shared_ids().at("s"), (Paths{"b"}));
}

// Protects averages and frozen references: a copy has parameters of its own, whatever becomes of the original.
TEST(RegistryCopy, IsIndependent) {
  ParameterRegistry parameters(3);
  for (const char* name : {"a", "b"}) (parameters / name).shared_as("s").parameter<float>("w", {2, 3}, init::normal(1));
  const auto own = (parameters / "c").parameter<float>("w", {4}, init::normal(1));
  (parameters / "d").parameter<double>("w", {2}, init::ones());
  own.set_grad(Tensor<float>({4}, 2.0F));
  parameters.freeze("d/*");
  const ParameterRegistry copy = parameters;
  EXPECT_EQ(paths(copy), paths(parameters));
  EXPECT_EQ(copy.shared_ids(), parameters.shared_ids());
  const auto copied = copy.at<float>("c/w");
  EXPECT_TRUE(same_bits(copied.value(), own.value()));
  EXPECT_TRUE(copied.has_grad() && same_bits(copied.grad(), own.grad()));
  EXPECT_TRUE(copy.at<double>("d/w").is_frozen());
  EXPECT_EQ(copy.at<float>("shared/s/w").entry()->users, (Paths{"a/w", "b/w"}));
  EXPECT_FALSE(copy.at<float>("shared/s/w").has_grad());

  const auto before = copied.value().copy();
  own.set_value(Tensor<float>({4}, 7.0F));
  parameters.zero_grad();
  parameters.unfreeze("d/*");
  (parameters / "e").parameter<float>("w", {1}, init::ones());
  EXPECT_TRUE(same_bits(copied.value(), before));
  EXPECT_TRUE(copied.has_grad());
  EXPECT_TRUE(copy.at<double>("d/w").is_frozen());
  EXPECT_EQ(copy.entries().size(), 3U);
  (copy / "f").parameter<float>("w", {1}, init::ones());
  EXPECT_EQ(parameters.entries().size(), 4U);
  // In place, as optimizers write.
  *reinterpret_cast<float*>(copied.entry()->writable()) = 9;
  EXPECT_EQ(own.value()[0], 7);
}

// Protects models that are moved with their registry: scopes, handles and the registry still speak of one thing.
TEST(RegistryCopy, AMovedRegistryKeepsItsScopes) {
  ParameterRegistry from(3);
  const Scope scope = from / "a";
  const auto w = scope.parameter<float>("w", {2}, init::ones());
  const auto handle = from.handle();
  const ParameterRegistry to = std::move(from);
  (void)scope.parameter<float>("b", {2}, init::ones());
  EXPECT_EQ(paths(to), (Paths{"a/b", "a/w"}));
  EXPECT_EQ(paths(*handle), paths(to));
  w.set_value(Tensor<float>({2}, 5.0F));
  EXPECT_EQ(to.at<float>("a/w").value()[0], 5);
  expect_error({"parameters", "moved"}, [&] { (void)from.entries(); });  // NOLINT(bugprone-use-after-move)
}

// Protects layers from a registry that would be swapped beneath them.
static_assert(!std::is_copy_assignable_v<ParameterRegistry>);

TEST(RegistryCopy, CopyValuesLoadsOneRegistryFromAnother) {
  const auto build = [](ParameterRegistry& parameters) {
    (parameters / "a").parameter<float>("w", {2, 3}, init::normal(1));
    (parameters / "b").parameter<double>("w", {2}, init::normal(1));
  };
  ParameterRegistry from(1), to(2);
  build(from), build(to);
  const auto w = to.at<float>("a/w");
  w.set_grad(Tensor<float>({2, 3}, 1.0F));
  copy_values(from, to);
  EXPECT_TRUE(same_bits(w.value(), from.at<float>("a/w").value()));
  EXPECT_TRUE(same_bits(to.at<double>("b/w").value(), from.at<double>("b/w").value()));
  EXPECT_TRUE(w.has_grad());
  from.at<float>("a/w").set_value(Tensor<float>({2, 3}, 4.0F));
  EXPECT_NE(w.value()[0], 4);

  const auto before = w.value().copy();
  ParameterRegistry more(1), other(1);
  build(more);
  (more / "c").parameter<float>("w", {1}, init::ones());
  expect_error({"copy_values", "c/w", "copied from"}, [&] { copy_values(more, to); });
  expect_error({"copy_values", "c/w", "copied to"}, [&] { copy_values(to, more); });
  (other / "a").parameter<float>("w", {2, 3}, init::zeros());
  (other / "b").parameter<float>("w", {2}, init::zeros());
  expect_error({"copy_values", "b/w", "float32[2]", "float64[2]"}, [&] { copy_values(other, to); });
  EXPECT_TRUE(same_bits(w.value(), before));
}

// Two rows of three ones.
class StoredOnes : public FrozenMatrix {
 public:
  StoredOnes() : FrozenMatrix(2, 3) {}
  void read(Index, Index count, float* to) const override { std::fill_n(to, count * columns(), 1.0F); }
  std::string format() const override { return "ones"; }
  std::size_t bytes() const override { return 0; }
  std::size_t mapped_bytes() const override { return 0; }
};

// Protects values and gradients: what does not fit, or may not be written, is refused by name and changes nothing.
TEST(Registry, RefusesValuesThatDoNotFit) {
  ParameterRegistry parameters(1), plain(1);
  const Scope a = parameters / "a";
  const auto w = a.parameter<float>("w", {2, 3}, init::zeros());
  expect_error({"a/w: has shape [2, 3], was given [3, 2]"}, [&] { w.set_value(Tensor<float>({3, 2}, 1.0F)); });
  expect_error({"a/w: has shape [2, 3], was given a gradient of [6]"}, [&] { w.set_grad(Tensor<float>({6}, 1.0F)); });
  parameters.freeze("a/w");
  expect_error({"a/w: is frozen and was given a gradient"}, [&] { w.set_grad(Tensor<float>({2, 3}, 1.0F)); });
  EXPECT_EQ(w.value()[0], 0);
  EXPECT_FALSE(w.has_grad());

  const auto stored = std::make_shared<const StoredOnes>();
  expect_error({"a/w: has shape [2, 3], was given a matrix of [3, 2]"}, [&] { w.entry()->keep_as(stored, true); });
  w.entry()->keep_as(stored, false);
  EXPECT_EQ(w.value()[5], 1);
  expect_error({"a/w: is read as it is stored, as ones, and cannot be written to"},
               [&] { (void)w.entry()->writable(); });
  (plain / "a").parameter<float>("w", {2, 3}, init::zeros());
  expect_error({"copy_values: a/w is read as it is stored"}, [&] { copy_values(plain, parameters); });
  copy_values(parameters, plain);
  EXPECT_EQ(plain.at<float>("a/w").value()[5], 1);
  const auto half = a.parameter<bfloat16>("half", {2, 3}, init::zeros());
  half.entry()->keep_as(stored, false);
  expect_error({"a/half: a matrix of bfloat16 cannot be made numbers of"}, [&] { (void)half.value(); });
}

// Protects a handle in a layer: it keeps its parameter when the registry is gone.
TEST(Registry, HandlesOutliveIt) {
  Parameter<float> w;
  EXPECT_FALSE(w);
  {
    ParameterRegistry parameters;
    w = (parameters / "l").parameter<float>("w", {2}, init::ones());
  }
  EXPECT_TRUE(w);
  EXPECT_EQ(w.value()[1], 1);
}

// Protects training from a bad start: mean, spread and range of each initializer, in each type.
TEST(Initializer, Statistics) {
  ParameterRegistry parameters(11);
  const Scope scope = parameters / "l";
  constexpr Index n = 200000;
  const auto moments = [](const auto& tensor) {
    double sum = 0, square = 0, most = 0;
    for (Index i = 0; i < tensor.size(); ++i) {
      const double x = static_cast<double>(tensor[i]);
      sum += x, square += x * x, most = std::max(most, std::abs(x));
    }
    const auto count = static_cast<double>(tensor.size());
    return std::array{sum / count, std::sqrt(square / count), most};
  };
  const double spread = 4 / std::sqrt(static_cast<double>(n));
  const auto normal = moments(scope.parameter<float>("normal", {n}, init::normal(0.02)).value());
  EXPECT_NEAR(normal[0], 0, 0.02 * spread);
  EXPECT_NEAR(normal[1], 0.02, 0.02 * spread);
  EXPECT_LT(normal[2], 0.02 * 6);
  const auto uniform = moments(scope.parameter<double>("uniform", {n}, init::uniform(0.5)).value());
  EXPECT_NEAR(uniform[0], 0, 0.5 * spread);
  EXPECT_NEAR(uniform[1], 0.5 / std::sqrt(3), 0.5 * spread);
  EXPECT_LE(uniform[2], 0.5);
  EXPECT_GT(uniform[2], 0.499);
  const auto half = moments(scope.parameter<bfloat16>("half", {n}, init::normal(1)).value());
  EXPECT_NEAR(half[1], 1, 0.02);
  EXPECT_EQ(init::xavier_uniform(8, 16), init::uniform(0.5));
  EXPECT_EQ(moments(scope.parameter<float>("ones", {3}, init::ones()).value())[1], 1);
  EXPECT_EQ(scope.parameter<float>("scalar", {}, init::constant(-2)).value().item(), -2);
  EXPECT_EQ(scope.parameter<float>("empty", {0, 3}, init::ones()).size(), 0);
  EXPECT_EQ(init::normal(0.02).to_string(), "normal(0.02)");
}

}  // namespace
