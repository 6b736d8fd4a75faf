// One rank fails, in the way that is asked for, while the others wait for it.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <remat/distributed.hpp>
#include <remat/remat.hpp>
#include <string>
#include <thread>

namespace {

using namespace remat;

/// An op that fails where it is told to.
struct FailsIn {
  std::string where{};
  void at(const char* here) const { require(where != here, "failed in ", here, ", as was asked"); }
};

int train(const distributed::Group& group, const FailsIn& fails, const std::string& where) {
  ParameterRegistry parameters(1);
  const nn::Linear<float> layer(parameters / "layer", {.input_dims = 4, .output_dims = 4});
  distributed::ShardedAdamW adamw(group, parameters);
  const bool overlaps = where == "backward_beside";
  distributed::GradientSum gradients(parameters, group, {.bucket_bytes = 1, .overlap = overlaps});
  distributed::TrainingStates states(group, parameters, {.folder = "/dev/null/no_folder"});
  states.add("adamw", adamw);
  for (Index step = 0; step < 3; ++step) {
    const distributed::Range mine = gradients.begin(group.size());
    for (Index i = mine.begin; i < mine.end; ++i) {
      Tape tape({.seed = 1, .step = step, .first_row = i, .rows = 1});
      if (step == 1 && where == "kill" && group.rank() == 1) raise(SIGKILL);
      if (step == 1 && where == "hang" && group.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(60));
      if (step == 1 && where == "exit" && group.rank() == 1) std::exit(0);
      if (step == 1) fails.at("forward");
      const Var<float> loss = mean(square(layer(tape.input(Tensor<float>({1, 4}, 0.5F)))));
      const GradientHook sum = overlaps ? gradients.in_backward() : [](ParameterEntry&) {};
      tape.backward(loss, [&](ParameterEntry& entry) {
        if (step == 1) fails.at("backward");
        if (step == 1 && overlaps && group.rank() != 1) std::this_thread::sleep_for(std::chrono::seconds(30));
        sum(entry);
        if (step == 1) fails.at("backward_beside");  // while its thread waits for the others, who compute for long
      });
      gradients.add(static_cast<double>(loss.item()));
    }
    gradients.finish();
    adamw.step(1e-3);
  }
  if (where == "save") states.save(3), states.wait();
  return where == "return" && group.rank() == 1 ? 3 : 0;
}

/// y = x, whose backward comes between those of two attentions.
struct FailsInBackward final : Op {
  static constexpr In<float> x{0};
  static constexpr Out<float> y{0};
  FailsIn fails;
  explicit FailsInBackward(const FailsIn& f) : Op("fails_in_backward"), fails(f) {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { std::copy_n(f[x].data(), f[x].size(), f[y].data()); }
  void backward(Frame& f) const override {
    fails.at("ring_backward");
    std::copy_n(f.grad(y).data(), f[y].size(), f.grad(x).data());
  }
};

/// Steps of attention over a sequence that the ranks share, while keys pass round.
int train_in_ring(const distributed::Group& group, const FailsIn& fails) {
  const distributed::ContextParallel context(group);
  for (Index step = 0; step < 3; ++step) {
    Tape tape({.seed = 1, .step = step, .ring = context.ring()});
    Var<float> x = tape.input(Tensor<float>({1, 8, 2, 4}, 0.5F), {.wants_gradient = true});
    x = attention(x, x, x, {.causal = true});
    if (step == 1) fails.at("ring_forward");
    x = record(FailsInBackward(step == 1 ? fails : FailsIn{}), x)[FailsInBackward::y];
    x = attention(x, x, x, {.causal = true});
    tape.backward(sum(square(x)));
  }
  return 0;
}

}  // namespace

/// In the place of MPI's own, which it calls: of an MPI that no thread but the first may call, where that is asked for.
extern "C" int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  const int code = PMPI_Init_thread(argc, argv, required, provided);
  if (*argc > 1 && std::string((*argv)[1]) == "no_threads") *provided = MPI_THREAD_SINGLE;
  return code;
}

int main(int argc, char** argv) {
  const std::string where = argc > 1 ? argv[1] : "";
  return distributed::run(argc, argv, [&](const distributed::Group& group) {
    const FailsIn fails{group.rank() == 1 ? where : ""};
    const int code = where.starts_with("ring") ? train_in_ring(group, fails) : train(group, fails, where);
    group.barrier();
    return code;
  });
}
