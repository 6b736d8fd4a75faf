// Panels, and register tiles of every width: also those of instructions that this machine may lack, whose arithmetic
// compilers then make of what there is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <remat/core/eigen.hpp>
#include <remat/core/random.hpp>
#include <remat/kernels/gemm/packed.hpp>
#include <tuple>
#include <vector>

namespace {

using namespace remat;
using kernels::Gemm;
using kernels::Trans;
namespace packed = kernels::packed;

template <class T>
std::vector<T> random_values(Index count, std::uint64_t seed) {
  std::vector<T> values(static_cast<std::size_t>(count));
  const RandomStream stream{.seed = seed};
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(stream.uniform(i) - 0.5F);
  return values;
}

template <int width, class S>
void check_panels() {
  using T = Accum<S>;
  for (const Index count : {1, 5, 6, 7, 12, 32, 50})
    for (const Index depth : {1, 7, 16, 37}) {
      const Index gap = 3, stride = packed::panel_stride(width, depth), panels = packed::blocks_of(count, width);
      for (const bool by_columns : {false, true}) {
        const Index pitch = (by_columns ? count : depth) + gap;
        const std::vector<S> from = random_values<S>((by_columns ? depth : count) * pitch, 1);
        const T mark = 7;
        std::vector<T> to(static_cast<std::size_t>(panels * stride + 1), mark);
        packed::pack<width>(by_columns, from.data(), pitch, count, depth, to.data(), stride);
        for (Index i = 0; i < count; ++i)
          for (Index p = 0; p < depth; ++p) {
            const S value = from[static_cast<std::size_t>(by_columns ? p * pitch + i : i * pitch + p)];
            ASSERT_EQ(to[static_cast<std::size_t>(i / width * stride + p * width + i % width)], static_cast<T>(value))
                << count << " by " << depth << (by_columns ? " columns" : " rows") << " at " << i << ", " << p;
          }
        EXPECT_EQ(to.back(), mark) << "written behind the panels";
      }
    }
}

TEST(Panels, HoldEachElementAtItsPlace) {
  check_panels<6, float>();
  check_panels<12, float>();
  check_panels<8, float>();
  check_panels<16, float>();
  check_panels<32, float>();
  check_panels<6, bfloat16>();
  check_panels<16, bfloat16>();
  check_panels<32, bfloat16>();
  check_panels<6, double>();
  check_panels<8, double>();
}

template <class S, class C, int bytes>
void check_product() {
  using T = Accum<S>;
  for (const auto& [m, n, k] : {std::tuple<Index, Index, Index>{40, 70, 300}, {13, 33, 100}, {12, 32, 1}, {1, 1, 7}})
    for (int variant = 0; variant < 16; ++variant) {
      const bool accumulate = (variant & 4) != 0, has_bias = (variant & 8) != 0;
      const Gemm g{.a = Trans(variant & 1),
                   .b = Trans(variant >> 1 & 1),
                   .m = m,
                   .n = n,
                   .k = k,
                   .lda = (variant & 1 ? m : k) + 3,
                   .ldb = (variant & 2 ? k : n) + 5,
                   .ldc = n + 2,
                   .accumulate = accumulate};
      const std::vector<S> a = random_values<S>((m + k) * g.lda, 1), b = random_values<S>((n + k) * g.ldb, 2);
      const std::vector<C> before = random_values<C>(m * g.ldc, 3);
      const std::vector<T> bias = random_values<T>(n, 4);
      for (const bool shares : {false, true}) {
        std::vector<C> c = before;
        packed::Product<S, C, packed::MicroKernel<T, bytes>>(g, a.data(), b.data(), has_bias ? bias.data() : nullptr,
                                                             c.data())
            .run({2, 2, shares});
        const double step = std::is_same_v<C, T> ? 0 : 0x1p-8;
        for (Index i = 0; i < m; ++i)
          for (Index j = 0; j < g.ldc; ++j) {
            const auto at = static_cast<std::size_t>(i * g.ldc + j);
            if (j >= n) {
              ASSERT_EQ(static_cast<double>(c[at]), static_cast<double>(before[at])) << "between the rows";
              continue;
            }
            double sum = (accumulate ? static_cast<double>(before[at]) : 0) +
                         (has_bias ? static_cast<double>(bias[static_cast<std::size_t>(j)]) : 0);
            for (Index p = 0; p < k; ++p)
              sum += static_cast<double>(a[static_cast<std::size_t>(offset(g.a, i, p, g.lda))]) *
                     static_cast<double>(b[static_cast<std::size_t>(offset(g.b, p, j, g.ldb))]);
            ASSERT_NEAR(static_cast<double>(c[at]), sum, 1e-5 + step * std::abs(sum)) << "variant " << variant;
          }
      }
    }
}

TEST(PackedProduct, EqualsPlainLoopsForEveryRegister) {
  check_product<float, float, 16>();
  check_product<float, float, 32>();
  check_product<float, float, 64>();
  check_product<double, double, 32>();
  check_product<double, double, 64>();
  check_product<bfloat16, float, 32>();
  check_product<bfloat16, bfloat16, 32>();
  check_product<bfloat16, float, 64>();
  check_product<bfloat16, bfloat16, 64>();
}

// Every shape gets a grid of tiles that covers it, whatever the number of threads.
TEST(PackedProduct, HasAGridForEveryShape) {
  for (const Index m : {1, 5, 24, 300, 100000})
    for (const Index n : {1, 15, 17, 5000})
      for (const Index k : {0, 1, 100000})
        for (const int threads : {1, 2, 64}) {
          const packed::Grid grid = packed::Grid::best(m, n, k, 288, 1024, threads);
          EXPECT_GE(grid.rows, packed::blocks_of(m, 288));
          EXPECT_GE(grid.columns, packed::blocks_of(n, 1024));
        }
}

// Parts of whole panels cover all, and none has more than one panel more than another.
TEST(PackedProduct, IsCutEvenly) {
  for (const Index size : {1, 6, 61, 768, 2048, 8191})
    for (const Index most : {1, 2, 3, 6, 8, 200}) {
      const packed::Cuts cuts(size, 12, most);
      EXPECT_EQ(cuts.begin(0), 0);
      EXPECT_EQ(cuts.begin(cuts.parts), size);
      Index least = size, greatest = 0;
      for (Index part = 0; part < cuts.parts; ++part) {
        const Index panels = packed::blocks_of(cuts.begin(part + 1) - cuts.begin(part), 12);
        least = std::min(least, panels), greatest = std::max(greatest, panels);
        EXPECT_EQ(cuts.begin(part) % 12, 0);
      }
      EXPECT_GE(least, 1);
      EXPECT_LE(greatest - least, 1);
    }
}

}  // namespace
