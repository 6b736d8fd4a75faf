// A query that sees one key has nothing to choose: its context is that value, and no score has a gradient.
#include <gtest/gtest.h>

#include <kernels/attention_reference.hpp>

namespace {

using namespace remat;
using namespace remat_test;

struct Way {
  const char* name;
  bool window = false, segments = false, padding = false;
  double others = 0;  // bias of all keys but one; 0: none
};
const Way ways[] = {{"a window of 1", true},
                    {"segments of 1", false, true},
                    {"all else is padding", false, false, true},
                    {"all else is hidden", false, false, false, -infinity},
                    {"all else has a bias of -1e9", false, false, false, -1e9}};

template <class T>
class OneKey : public testing::Test {};
using Types = testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(OneKey, Types);

TYPED_TEST(OneKey, GivesItsValueAndNoGradientOfScores) {
  constexpr Index length = 70;
  for (const Way& way : ways)
    for (const Index width : {5, 64})
      for (const double dropout : {0.0, 0.3}) {
        SCOPED_TRACE(testing::Message() << way.name << ", width " << width << ", dropout " << dropout);
        const bool by_bias = way.others != 0;
        AttentionCall<TypeParam> a({.batch = 1,
                                    .query_length = length,
                                    .key_length = length,
                                    .heads = 1,
                                    .kv_heads = 1,
                                    .head_dims = width,
                                    .causal = !way.padding && !by_bias,
                                    .dropout = dropout,
                                    .window = way.window ? 1 : 0,
                                    .padding = way.padding,
                                    .segments = way.segments,
                                    .bias = {0, 0, by_bias, by_bias}});
        for (Index i = 0; i < a.k_at; ++i) a.input[count(i)] = a.input[count(i)] * TypeParam(30.0F);
        for (Index t = 0; t < length; ++t)
          a.query_segments[count(t)] = a.key_segments[count(t)] = static_cast<std::int32_t>(t);
        a.key_lengths[0] = 1;
        if (by_bias)
          for (Index i = 0; i < length * length; ++i)
            if (i % (length + 1) != 0) a.bias[count(i)] = static_cast<remat::Accum<TypeParam>>(way.others);
        a.run();
        for (Index i = 0; i < a.v_at; ++i) ASSERT_EQ(a.gradient[count(i)], TypeParam(0.0F)) << i;
        for (const auto& bias : a.dbias) ASSERT_EQ(bias, 0);
        if (dropout > 0) continue;
        const auto value = [&](Index i) { return a.v_at + (way.padding ? i % width : i); };
        for (Index i = 0; i < length * width; ++i) ASSERT_EQ(a.out[count(i)], a.input[count(value(i))]) << i;
        if (way.padding) continue;
        for (Index i = 0; i < length * width; ++i) ASSERT_EQ(a.gradient[count(a.v_at + i)], a.dout[count(i)]) << i;
      }
}

TYPED_TEST(OneKey, OfACausalFirstRow) {
  for (const double dropout : {0.0, 0.3}) {
    AttentionCall<TypeParam> a({.batch = 1,
                                .query_length = 70,
                                .key_length = 70,
                                .heads = 1,
                                .kv_heads = 1,
                                .head_dims = 16,
                                .dropout = dropout});
    a.run();
    for (Index i = 0; i < 16; ++i) ASSERT_EQ(a.gradient[count(i)], TypeParam(0.0F));
    for (Index i = 16; i < 32; ++i) ASSERT_NE(a.gradient[count(i)], TypeParam(0.0F));
  }
}

// Nothing is hidden by it: what is not finite shows.
TEST(OneKeyAlone, ShowsNaN) {
  AttentionCall<float> a({.batch = 1, .query_length = 3, .key_length = 3, .window = 1});
  a.dout[0] = std::numeric_limits<float>::quiet_NaN();
  a.run();
  EXPECT_TRUE(std::isnan(a.gradient[0]));
}

}  // namespace
