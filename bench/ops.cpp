// Ops one by one, by Google Benchmark: forward alone, as in evaluate mode, and a training step of the op, forward and
// backward. `./run bench ops --benchmark_filter=attention`; its other flags are Google Benchmark's.
#include <benchmark/benchmark.h>

#include <functional>
#include <remat/remat.hpp>
#include <string>
#include <vector>

#include "machine_facts.hpp"

namespace {

using namespace remat;

template <class T>
Tensor<T> filled(const Shape& shape) {
  std::vector<T> values(static_cast<std::size_t>(shape.size()));
  const RandomStream stream{.seed = 1};
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(stream.normal(i));
  return Tensor<T>(shape, values);
}

template <class T>
using Vars = std::vector<Var<T>>;

/// Registers `op` of float and of bfloat16, forward alone and with its backward, on operands of these shapes.
template <class Make>
void measure(const std::string& name, const std::vector<Shape>& shapes, const Make& make) {
  const auto of_type = [&]<class T>(const std::string& type, T) {
    std::vector<Tensor<T>> values;
    for (const Shape& shape : shapes) values.push_back(filled<T>(shape));
    const auto op = make(T{});
    for (const bool is_training : {false, true}) {
      const auto run = [values, op, is_training](benchmark::State& state) {
        TapeStats stats;
        for (auto _ : state) {
          Tape tape({.seed = 1, .step = 0, .mode = is_training ? Mode::train : Mode::evaluate});
          Vars<T> x;
          for (const Tensor<T>& each : values) x.push_back(tape.input(each, {.wants_gradient = is_training}));
          const auto y = op(x);
          if (is_training) tape.backward(y.shape().size() == 1 ? y : sum(y));
          stats = tape.stats();
        }
        const auto rate = [](double amount) {
          return benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate);
        };
        state.counters["flop/s"] = rate(stats.forward_flops + stats.backward_flops);
        state.counters["peak_bytes"] =
            benchmark::Counter(static_cast<double>(stats.peak_bytes), {}, benchmark::Counter::OneK::kIs1024);
      };
      benchmark::RegisterBenchmark((name + "/" + type + (is_training ? "/step" : "/forward")).c_str(), run)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  };
  of_type("float", float{});
  of_type("bfloat16", bfloat16{});
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);  // --help ends here
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  measure("linear", {{1024, 512}, {512, 2048}},
          []<class T>(T) { return [](const Vars<T>& x) { return linear(x[0], x[1]); }; });
  measure("attention", {{2, 512, 8, 64}, {2, 512, 8, 64}, {2, 512, 8, 64}},
          []<class T>(T) { return [](const Vars<T>& x) { return attention(x[0], x[1], x[2], {.causal = true}); }; });
  measure("softmax", {{1024, 1024}}, []<class T>(T) { return [](const Vars<T>& x) { return softmax(x[0]); }; });
  measure("gelu", {{1024, 2048}}, []<class T>(T) { return [](const Vars<T>& x) { return gelu(x[0]); }; });
  measure("dropout", {{1024, 512}}, []<class T>(T) { return [](const Vars<T>& x) { return dropout(x[0], 0.1); }; });
  measure("add", {{1024, 512}, {1024, 512}}, []<class T>(T) { return [](const Vars<T>& x) { return x[0] + x[1]; }; });
  measure("layer_norm", {{1024, 512}}, []<class T>(T) {
    const Tensor<Accum<T>> scale({512}, 1), bias({512}, 0);
    return [=](const Vars<T>& x) { return layer_norm<T>(x[0], scale, bias); };
  });
  measure("cross_entropy", {{1024, 8192}}, []<class T>(T) {
    const Tensor<std::int32_t> targets({1024}, 7);
    return [=](const Vars<T>& x) { return cross_entropy(x[0], targets); };
  });
  measure("linear_cross_entropy", {{1024, 512}, {8192, 512}}, []<class T>(T) {
    const Tensor<std::int32_t> targets({1024}, 7);
    return [=](const Vars<T>& x) { return linear_cross_entropy(x[0], x[1], {}, targets, {.transposed = true}); };
  });

  for (const auto& [name, value] : programs::machine_facts(machine::peak_fma_gflops(machine::threads())))
    benchmark::AddCustomContext(name, value);
  benchmark::RunSpecifiedBenchmarks();
}
