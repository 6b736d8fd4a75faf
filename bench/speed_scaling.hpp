// How the time of a token grows with length, layers and width, beside the arithmetic of a token.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gpt_training.hpp"
#include "speed_table.hpp"

namespace bench {

/// One model on one of the three axes.
struct ScalePoint {
  std::string axis{};
  int value = 0, tokens = 0;
  Timed step{};
  double seconds_per_token() const { return median(step.seconds) / tokens; }
};

struct ScalingReport {
  std::vector<ScalePoint> points{};
  std::vector<double> peak{};  // FMA, flop/s, of each round

  /// The exponent e of y = c value^e, by least squares of logarithms, over the points of an axis.
  template <class Y>
  double exponent(const std::string& axis, Y&& y) const {
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (const ScalePoint& p : points) {
      if (p.axis != axis) continue;
      const double lx = std::log(p.value), ly = std::log(y(p));
      ++n, sx += lx, sy += ly, sxx += lx * lx, sxy += lx * ly;
    }
    return (n * sxy - sx * sy) / (n * sxx - sx * sx);
  }
  double time_exponent(const std::string& axis) const {
    return exponent(axis, [](const ScalePoint& p) { return p.seconds_per_token(); });
  }
  double flops_exponent(const std::string& axis) const {
    return exponent(axis, [](const ScalePoint& p) { return p.step.flops / p.tokens; });
  }

  void print() const {
    std::printf("\n%-8s %7s %12s %14s %8s\n", "axis", "value", "us/token", "MFLOP/token", "% peak");
    std::string axis;
    for (const ScalePoint& p : points) {
      std::printf("%-8s %7d %12.2f %14.2f %8.1f\n", p.axis.c_str(), p.value, 1e6 * p.seconds_per_token(),
                  p.step.flops / p.tokens * 1e-6, 100 * p.step.share(p.step.flops, peak));
      if (&p == &points.back() || (&p)[1].axis != p.axis)
        std::printf("%-8s time grows as %s^%.2f, arithmetic as %s^%.2f\n", "", p.axis.c_str(), time_exponent(p.axis),
                    p.axis.c_str(), flops_exponent(p.axis));
    }
  }
  void write(const std::string& folder) const {
    auto file = open_csv(folder, "speed_scaling.csv",
                         "axis,value,tokens,best_ms,median_ms,us_per_token,flops_per_token,share_of_peak,time_exponent,"
                         "flops_exponent");
    for (const ScalePoint& p : points)
      file << p.axis
           << text_of(",%d,%d,%.3f,%.3f,%.4f", p.value, p.tokens, 1e3 * best(p.step.seconds),
                      1e3 * median(p.step.seconds), 1e6 * p.seconds_per_token())
           << text_of(",%.0f,%.4f,%.4f,%.4f\n", p.step.flops / p.tokens, p.step.share(p.step.flops, peak),
                      time_exponent(p.axis), flops_exponent(p.axis));
  }
};

/// Steps of about `tokens` tokens of models that differ from the first of each axis in one number, all in turn.
template <class T>
ScalingReport measure_scaling(int tokens, int threads, int rounds) {
  struct Run {
    GptTraining<T> training;
    remat::data::Batch batch;
  };
  ScalingReport report;
  std::vector<std::unique_ptr<Run>> runs;
  const auto add = [&](const std::string& axis, int value, int layers, int dims, int context) {
    const remat::models::GptConfig config{.vocabulary = 256,
                                          .context = context,
                                          .num_layers = layers,
                                          .model_dims = dims,
                                          .num_heads = std::max(1, dims / 64)};
    const int batch = std::max(1, tokens / context);
    const auto text = learnable_tokens(static_cast<std::size_t>(batch * context + 1), config.vocabulary);
    const remat::data::RandomBatches batches(text, batch, context, 1);
    runs.push_back(std::make_unique<Run>(Run{GptTraining<T>(config), batches.at(0)}));
    ScalePoint point{.axis = axis, .value = value, .tokens = batch * context};
    point.step.flops = model_flops(config, point.tokens, context);
    report.points.push_back(std::move(point));
  };
  for (const int length : {64, 128, 256, 512, 1024, 2048, 4096})
    if (length <= tokens) add("length", length, 2, 256, length);
  for (const int layers : {1, 2, 4, 8}) add("layers", layers, layers, 256, std::min(256, tokens));
  for (const int dims : {64, 128, 256, 512}) add("width", dims, 2, dims, std::min(256, tokens));

  for (int round = 0; round <= rounds; ++round) {
    for (std::size_t turn = 0; turn < runs.size(); ++turn) {
      const std::size_t i = round % 2 == 0 ? turn : runs.size() - 1 - turn;
      const double seconds = runs[i]->training.step(runs[i]->batch).seconds;
      if (round > 0) report.points[i].step.seconds.push_back(seconds);  // the first round warms up
    }
    if (round > 0) report.peak.push_back(1e9 * remat::machine::peak_fma_gflops(threads));
  }
  return report;
}

}  // namespace bench
