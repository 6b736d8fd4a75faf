// The products of a projection to queries, keys and values: one matrix, and three.
#pragma once

#include <array>
#include <functional>
#include <remat/kernels/linear.hpp>
#include <remat/remat.hpp>
#include <string>
#include <utility>
#include <vector>

#include "speed_table.hpp"

namespace bench {

/// A layer's sizes; heads are 64 wide.
struct FalconShape {
  std::string name;
  remat::Index dims, heads, kv_heads;

  remat::Index head_dims() const { return 64; }
  remat::Index queries() const { return heads * head_dims(); }
  remat::Index keys() const { return kv_heads * head_dims(); }
  remat::Index outputs() const { return queries() + 2 * keys(); }
  std::string sizes() const {
    return text_of("%s: D %lld, %lld query heads, %lld key/value heads of 64", name.c_str(),
                   static_cast<long long>(dims), static_cast<long long>(heads), static_cast<long long>(kv_heads));
  }
};

inline remat::Tensor<float> noise(const remat::Shape& shape, std::uint32_t site) {
  remat::Tensor<float> tensor(shape);
  const remat::RandomStream random{7, 0, site};
  std::uint64_t i = 0;
  for (float& value : tensor.write()) value = random.uniform(i++) - 0.5F;
  return tensor;
}

/// One phase for so many tokens, both ways.
struct ProductRow {
  FalconShape shape;
  int tokens;
  Timed fused, apart;
};

struct ProductReport {
  std::vector<ProductRow> rows{};

  void print() const {
    std::string before;
    for (const ProductRow& r : rows) {
      if (before != r.shape.name) {
        std::printf("\n%s\n%7s %-12s %10s %10s %10s %10s %9s %14s\n", r.shape.sizes().c_str(), "tokens", "", "one best",
                    "median ms", "3 best", "median ms", "GFLOP/s", "three over one");
        before = r.shape.name;
      }
      std::printf("%7d %-12s %10.3f %10.3f %10.3f %10.3f %9.1f %14.3f\n", r.tokens, r.fused.name.c_str(),
                  1e3 * best(r.fused.seconds), 1e3 * median(r.fused.seconds), 1e3 * best(r.apart.seconds),
                  1e3 * median(r.apart.seconds), 1e-9 * r.fused.flops / median(r.fused.seconds),
                  ratio(r.apart.seconds, r.fused.seconds));
    }
  }
  void write(const std::string& folder) const {
    auto file = open_csv(folder, "falcon_products.csv",
                         "model,tokens,phase,fused_best_ms,fused_median_ms,apart_best_ms,apart_median_ms,flops,"
                         "apart_over_fused");
    for (const ProductRow& r : rows)
      file << '"' << r.shape.name
           << text_of("\",%d,%s,%.4f,%.4f,%.4f,%.4f,%.0f,%.4f\n", r.tokens, r.fused.name.c_str(),
                      1e3 * best(r.fused.seconds), 1e3 * median(r.fused.seconds), 1e3 * best(r.apart.seconds),
                      1e3 * median(r.apart.seconds), r.fused.flops, ratio(r.apart.seconds, r.fused.seconds));
  }
};

/// All three phases of one projection and of three beside it, on buffers of their own.
class FalconProducts {
 public:
  using Index = remat::Index;
  FalconProducts(const FalconShape& shape, Index most_tokens)
      : dims_(shape.dims),
        widths_{shape.queries(), shape.keys(), shape.keys()},
        outputs_(shape.outputs()),
        x_(noise({most_tokens, dims_}, 1)),
        dx_({most_tokens, dims_}),
        w_(noise({dims_, outputs_}, 2)),
        dw_({dims_, outputs_}),
        y_(noise({most_tokens, outputs_}, 3)) {}

  void forward(Index tokens, bool is_fused) {
    each(tokens, is_fused, [&](const auto& of, Index w, Index y) {
      of.forward(x_.data(), w_.data() + w, nullptr, y_.write().data() + y);
    });
  }
  void input_gradient(Index tokens, bool is_fused) {
    bool adds = false;
    each(tokens, is_fused, [&](const auto& of, Index w, Index y) {
      of.input_gradient(y_.data() + y, w_.data() + w, std::exchange(adds, true), dx_.write().data());
    });
  }
  void weight_gradient(Index tokens, bool is_fused) {
    each(tokens, is_fused, [&](const auto& of, Index w, Index y) {
      of.weight_gradient(x_.data(), y_.data() + y, false, dw_.write().data() + w);
    });
  }

 private:
  /// Matrices apart lie one behind the other, each whole.
  template <class Work>
  void each(Index tokens, bool is_fused, Work&& work) {
    if (is_fused) return work(remat::kernels::LinearProducts<float>{tokens, dims_, outputs_, false}, 0, 0);
    Index columns = 0;
    for (const Index width : widths_) {
      work(remat::kernels::LinearProducts<float>{tokens, dims_, width, false}, dims_ * columns, tokens * columns);
      columns += width;
    }
  }

  Index dims_;
  std::array<Index, 3> widths_;
  Index outputs_;
  remat::Tensor<float> x_, dx_, w_, dw_, y_;
};

inline ProductReport measure_products(const std::vector<FalconShape>& shapes, const std::vector<int>& tokens,
                                      int rounds) {
  ProductReport report;
  for (const FalconShape& shape : shapes) {
    FalconProducts products(shape, *std::max_element(tokens.begin(), tokens.end()));
    using Phase = void (FalconProducts::*)(remat::Index, bool);
    const std::vector<std::pair<const char*, Phase>> phases{{"forward", &FalconProducts::forward},
                                                            {"by x", &FalconProducts::input_gradient},
                                                            {"by w", &FalconProducts::weight_gradient}};
    for (const int count : tokens)
      for (const auto& [name, phase] : phases) {
        ProductRow row{shape, count, {.name = name}, {.name = name}};
        row.fused.flops = 2.0 * count * static_cast<double>(shape.dims) * static_cast<double>(shape.outputs());
        const auto run = [&, phase = phase](bool is_fused) {
          return seconds_of([&] { (products.*phase)(count, is_fused); });
        };
        const double once = run(true) + run(false);  // warms up
        const int times =
            std::max(1, static_cast<int>(0.02 / once));  // few tokens: several, so that a clock's tick is little
        for (int round = 0; round < rounds; ++round)
          for (const bool is_fused : {round % 2 == 0, round % 2 != 0}) {
            double seconds = 0;
            for (int i = 0; i < times; ++i) seconds += run(is_fused);
            (is_fused ? row.fused : row.apart).seconds.push_back(seconds / times);
          }
        report.rows.push_back(std::move(row));
      }
  }
  return report;
}

}  // namespace bench
