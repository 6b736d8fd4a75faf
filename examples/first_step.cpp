// The whole of it once: parameters, a step on a tape, its loss, backward, and AdamW.
//
// A line y = 2 a - 3 b + 1 is learned from 64 points. `Linear` is a layer; the rest is ops on Vars.
#include <cmath>
#include <iostream>
#include <remat/remat.hpp>

int main() {
  // Data: plain tensors, made from values. Random streams are functions of (seed, step, site).
  const remat::RandomStream random{/*seed=*/1, 0, 0};
  std::vector<float> points, values;
  for (std::uint64_t i = 0; i < 64; ++i) {
    const double a = random.normal(2 * i), b = random.normal(2 * i + 1);
    points.insert(points.end(), {static_cast<float>(a), static_cast<float>(b)});
    values.push_back(static_cast<float>(2 * a - 3 * b + 1));
  }
  const remat::Tensor<float> x({64, 2}, std::span<const float>(points)), y({64, 1}, std::span<const float>(values));

  // Parameters live in a registry, under paths; a layer asks a scope of it for its own.
  remat::ParameterRegistry parameters(/*seed=*/1);
  const remat::nn::Linear<float> line(parameters / "line", {.input_dims = 2, .output_dims = 1});
  remat::optim::AdamW adamw(parameters, {.weight_decay = 0});

  double loss = 0;
  for (int step = 0; step < 300; ++step) {
    remat::Tape tape({.seed = 1, .step = step});  // one tape a step
    const remat::Var<float> error = line(tape.input(x)) - tape.input(y);
    const remat::Var<float> mean_square = mean(square(error));
    tape.backward(mean_square);  // adds into the gradient of each parameter
    loss = static_cast<double>(mean_square.item());
    adamw.step(/*learning_rate=*/0.05);  // and clears them
    if (step % 100 == 0) std::cout << "step " << step << "  loss " << loss << '\n';
  }

  const auto w = line.w.value(), b = line.b.value();
  std::cout << "loss " << loss << "\ny = " << w[0] << " a + " << w[1] << " b + " << b[0] << '\n' << parameters;
  const bool is_learned = std::abs(w[0] - 2) < 0.01F && std::abs(w[1] + 3) < 0.01F && std::abs(b[0] - 1) < 0.01F;
  return is_learned ? 0 : 1;
}
