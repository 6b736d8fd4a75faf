// Fused kernels alone: attention against the FMA peak, those that are bound by memory against its bandwidth.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpt_training.hpp"
#include "speed_table.hpp"

namespace bench {

/// Bytes a second of a[i] += s b[i] on all threads, 12 an element, from arrays that no cache holds. In place, because a
/// result written elsewhere is read first by most processors, which nobody counts.
class MemoryProbe {
 public:
  explicit MemoryProbe(remat::Index size) : a_({size}, 0.0F), b_({size}, 1.0F) {}
  double run() {
    const double seconds = seconds_of([a = a_.write(), b = b_.data(), size = a_.size()] {
      remat::parallel_for(size, 1 << 16, [=](remat::Index begin, remat::Index end) {
        for (remat::Index i = begin; i < end; ++i) a[static_cast<std::size_t>(i)] += 0.5F * b[i];
      });
    });
    return 3 * sizeof(float) * static_cast<double>(a_.size()) / seconds;
  }

 private:
  remat::Tensor<float> a_, b_;
};

/// Forward and backward of one op. Either both have flops, or both have bytes.
struct Kernel {
  std::string name{};
  std::function<void(Kernel&)> run{};  // adds a time to both
  Timed forward{.name = "forward"}, backward{.name = "backward"};
};

/// The op called `op` in what `build(tape, x)` makes of an input x of `shape`, its sum being the loss where it is no
/// number. Bytes: arrays of x's size that forward and backward need to read or write; 0: flops count.
template <class Build>
Kernel op_kernel(std::string name, std::string op, const remat::Shape& shape, int forward_arrays, int backward_arrays,
                 Build build) {
  Kernel kernel{.name = std::move(name)};
  remat::Tensor<float> values(shape);
  const remat::RandomStream random{3, 0, 0};
  std::uint64_t i = 0;
  for (float& value : values.write()) value = 2 * random.uniform(i++) - 1;
  const remat::Tensor<float> x = values;  // nobody writes to this one, so that tapes share it
  const double bytes = sizeof(float) * static_cast<double>(x.size());
  kernel.forward.bytes = forward_arrays * bytes, kernel.backward.bytes = backward_arrays * bytes;
  kernel.run = [=](Kernel& k) {
    remat::Tape tape({.seed = 1, .trace = true});
    const remat::Var<float> y = build(tape, tape.input(x, {.wants_gradient = true}));
    tape.backward(y.shape().size() == 1 ? y : remat::sum(y));
    for (const remat::TraceSlice& slice : tape.trace())
      if (slice.name == op)
        (slice.category == "forward" ? k.forward : k.backward).seconds.push_back(slice.end - slice.start);
    for (const remat::Node& node : tape.program().nodes)
      if (node.op->name() == op && forward_arrays == 0)
        k.forward.flops = node.cost.flops, k.backward.flops = node.cost.backward_flops;
  };
  return kernel;
}

/// Clipping's norm, in place of a forward, and AdamW of one parameter of `size` elements.
inline Kernel update_kernel(remat::Index size) {
  const double bytes = sizeof(float) * static_cast<double>(size);
  Kernel kernel{.name = text_of("update [%lld]", static_cast<long long>(size))};
  kernel.forward = {.name = "norm", .bytes = bytes};
  kernel.backward = {.name = "adamw", .bytes = 7 * bytes};
  remat::ParameterRegistry parameters(1);
  const auto p = (parameters / "kernel").parameter<float>("w", {size}, remat::init::normal(0.02));
  auto adamw = std::make_shared<remat::optim::AdamW>(parameters);
  kernel.run = [=](Kernel& k) {
    {
      remat::Tape tape;
      tape.backward(remat::sum(tape.parameter(p)));
    }
    double norm = 0;
    k.forward.seconds.push_back(seconds_of([&] { norm = remat::optim::global_norm(parameters); }));
    k.backward.seconds.push_back(seconds_of([&] { adamw->step(1e-3, remat::optim::clip_scale(norm, 1)); }));
  };
  return kernel;
}

/// Kernels, and beside each round FMA peak (flop/s) and memory's bandwidth (bytes/s).
struct KernelReport {
  std::vector<Kernel> kernels{};
  std::vector<double> peak{}, bandwidth{};

  void print() const {
    std::printf("\n%-42s %-9s %9s %9s %10s %8s\n", "kernel", "phase", "best ms", "median", "GFLOP/s", "% peak");
    for_each_row(true, [&](const std::string& name, const Timed& t) {
      std::printf("%-42s %-9s %9.3f %9.3f %10.1f %8.1f\n", name.c_str(), t.name.c_str(), 1e3 * best(t.seconds),
                  1e3 * median(t.seconds), t.flops / median(t.seconds) * 1e-9, 100 * t.share(t.flops, peak));
    });
    std::printf("\nmemory: %.1f GB/s (a += s b beside each round, median)\n", 1e-9 * median(bandwidth));
    std::printf("%-42s %-9s %9s %9s %10s %8s\n", "kernel", "phase", "best ms", "median", "GB/s", "% of it");
    for_each_row(false, [&](const std::string& name, const Timed& t) {
      std::printf("%-42s %-9s %9.3f %9.3f %10.1f %8.1f\n", name.c_str(), t.name.c_str(), 1e3 * best(t.seconds),
                  1e3 * median(t.seconds), t.bytes / median(t.seconds) * 1e-9, 100 * t.share(t.bytes, bandwidth));
    });
  }
  void write(const std::string& folder) const {
    auto file = open_csv(folder, "speed_kernels.csv", "kernel,phase,best_ms,median_ms,flops,bytes,share_of_roof");
    for (const bool computes : {true, false})
      for_each_row(computes, [&](const std::string& name, const Timed& t) {
        file << '"' << name << "\"," << t.name
             << text_of(",%.4f,%.4f,%.0f,%.0f,%.4f\n", 1e3 * best(t.seconds), 1e3 * median(t.seconds), t.flops, t.bytes,
                        computes ? t.share(t.flops, peak) : t.share(t.bytes, bandwidth));
      });
  }

 private:
  template <class Row>
  void for_each_row(bool computes, Row&& row) const {
    for (const Kernel& k : kernels) {
      if (computes != (k.forward.flops > 0)) continue;
      row(k.name, k.forward);
      row(k.name, k.backward);
    }
  }
};

/// Causal attention of `heads` heads of 64 at the given lengths, and the kernels of memory on arrays of `size`
/// elements.
inline KernelReport measure_kernels(const std::vector<int>& lengths, int heads, remat::Index size, int threads,
                                    int rounds) {
  KernelReport report;
  for (const int length : lengths)
    report.kernels.push_back(op_kernel(text_of("attention, %d heads of 64, length %d", heads, length), "attention",
                                       {std::max(1, 2048 / length), length, 3 * 64 * heads}, 0, 0,
                                       [=](remat::Tape&, const remat::Var<float>& x) {
                                         return remat::attention_qkv(x, heads, heads, {.causal = true});
                                       }));
  const auto shape_of = [&](remat::Index width) {
    return remat::Shape{std::max<remat::Index>(1, size / width), width};
  };
  const auto add = [&](const char* name, const char* op, remat::Index width, int forward, int backward, auto build) {
    const remat::Shape shape = shape_of(width);
    report.kernels.push_back(op_kernel(name + shape.to_string(), op, shape, forward, backward, build));
  };
  add("layer_norm ", "layer_norm", 512, 2, 3,
      [](remat::Tape&, const remat::Var<float>& x) { return remat::layer_norm(x); });
  add("skip_layer_norm ", "skip_layer_norm", 512, 4, 4,
      [branch = remat::Tensor<float>(shape_of(512), 1.0F)](remat::Tape& tape, const remat::Var<float>& x) {
        const auto both = remat::skip_layer_norm(x, tape.input(branch, {.wants_gradient = true}));
        return both.sum + both.normal;
      });
  add("gelu ", "activate", 2048, 2, 3,
      [](remat::Tape&, const remat::Var<float>& x) { return remat::activate(x, remat::Activation::gelu); });
  const remat::Tensor<std::int32_t> targets({shape_of(8192)[0]}, 1);
  add("cross_entropy ", "cross_entropy", 8192, 1, 2, [targets](remat::Tape& tape, const remat::Var<float>& x) {
    return remat::cross_entropy(x, tape.input(targets));
  });
  report.kernels.push_back(update_kernel(size));

  MemoryProbe memory(size);
  memory.run();
  for (Kernel& kernel : report.kernels) {  // warms up
    kernel.run(kernel);
    kernel.forward.seconds.clear(), kernel.backward.seconds.clear();
  }
  for (int round = 0; round < rounds; ++round) {
    for (Kernel& kernel : report.kernels) kernel.run(kernel);
    report.bandwidth.push_back(std::max(memory.run(), memory.run()));
    report.peak.push_back(1e9 * remat::machine::peak_fma_gflops(threads));
  }
  return report;
}

}  // namespace bench
