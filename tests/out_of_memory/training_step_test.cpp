// Memory that ends in the middle of a training step, at each of its allocations: nothing is lost, nothing leaks, and
// the step that is made again gives the bits of one that never failed.
#include <gtest/gtest.h>

#include <core/threads.hpp>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <out_of_memory/failing_allocations.hpp>
#include <remat/models/gpt.hpp>
#include <remat/nn/lora.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/muon.hpp>
#include <remat/plan/plan.hpp>
#include <remat/policy/phrase_book.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace remat;

struct Kind {
  Policy remat = policy::everything;
  bool has_adapters = false, in_backward = false, clips = false;
};

/// A model of one layer, its optimizer and its steps.
template <class T, class Optimizer = optim::AdamW>
struct Training {
  Kind kind;
  ParameterRegistry parameters{5};
  models::Gpt<T> gpt;
  std::optional<nn::Lora<T>> adapters{};
  Optimizer optimizer{parameters};
  Tensor<std::int32_t> inputs{{1, 3}, {1, 2, 0}}, targets{{1, 3}, {2, 0, 4}};

  explicit Training(const Kind& k)
      : kind(k),
        gpt(parameters / "gpt", {.vocabulary = 5,
                                 .context = 3,
                                 .num_layers = 1,
                                 .model_dims = 8,
                                 .num_heads = 2,
                                 .dropout = 0.1,
                                 .remat = k.remat}) {
    if (!kind.has_adapters) return;
    nn::LoraConfig config;
    config.rank = 2, config.dropout = 0.1;
    adapters.emplace(parameters, parameters / "lora", config);
  }
  void step(Index number) {
    TapeOptions options{.seed = 3, .step = number};
    if (std::filesystem::is_directory("/dev/shm")) options.offload_directory = "/dev/shm";  // hundreds of files
    Tape tape(options);
    const auto loss = gpt.loss(tape, inputs, targets);
    if (kind.in_backward) return tape.backward(loss, optimizer.in_backward(1e-2));
    tape.backward(loss);
    optimizer.step(1e-2, optim::clip_scale(optim::global_norm(parameters), 1.0));
  }
  /// Every bit that the next step depends on: values, and the optimizer's state of those that were updated.
  std::string bits() const {
    std::string all;
    const auto append = [&](const AnyTensor& tensor) {
      all.append(reinterpret_cast<const char*>(tensor.data()), tensor.bytes());
    };
    for (const auto& entry : parameters.entries()) append(entry->value);
    const StateDict state = optimizer.state_dict();
    for (const auto& [name, number] : state.numbers)
      if (number > 0) all += name + std::to_string(number);
    for (const auto& [name, tensor] : state.tensors) append(tensor);
    return all;
  }
};

/// What a failed step may leave: gradients, which the next backward would add to, and casts; both are the registry's.
void drop_leftovers(const ParameterRegistry& parameters) {
  for (const auto& entry : parameters.entries()) entry->drop_grad(), entry->cast = {}, entry->cast_from = {};
}

/// No block waits for reuse, so that each one that a step asks for may fail.
class NothingWaits {
 public:
  NothingWaits() : one_(1) {
    pool().trim();
    pool().set_held_limit(0);
  }
  NothingWaits(const NothingWaits&) = delete;
  NothingWaits& operator=(const NothingWaits&) = delete;
  ~NothingWaits() { pool().set_held_limit(); }

 private:
  remat_test::Threads one_;  // so that the n-th is the same in each run
};

/// Of allocations by the C++ library, and of blocks of the pool.
struct Failures {
  int of_library = 0, of_pool = 0;
};

/// Calls `work` with its first, second, ... allocation failing, until it ends without; `check` after each failure. Work
/// that can do without what failed gives true. `step` n leaves out all but each n-th allocation; where memory
/// `stays_out`, those after it fail, too.
Failures fail_each_allocation(const std::function<bool()>& work, const std::function<void()>& check, long step = 1,
                              bool stays_out = false) {
  Failures failures;
  for (long n = 1;; n += step) {
    remat_test::fail_allocation(n, stays_out);
    bool is_done = false;
    try {
      const bool bears_it = work();
      is_done = !remat_test::has_failed();
      EXPECT_TRUE(is_done || bears_it) << "allocation " << n << " failed, and nobody said so";
    } catch (const std::bad_alloc&) {
      ++failures.of_library;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos) << error.what();
      ++failures.of_pool;
    }
    remat_test::fail_allocation(0);
    if (is_done || testing::Test::HasFailure()) return failures;
    check();
    if (testing::Test::HasFailure()) {
      ADD_FAILURE() << "at allocation " << n;
      return failures;
    }
  }
}

template <class T, class Optimizer = optim::AdamW>
void expect_nothing_lost(const Kind& kind) {
  const NothingWaits nothing_waits;
  Training<T, Optimizer> never_failed(kind), training(kind);
  for (Index step = 0; step < 2; ++step) never_failed.step(step);
  training.step(0);
  drop_leftovers(training.parameters);

  std::vector<AnyTensor> values;
  for (const auto& entry : training.parameters.entries()) values.push_back(entry->value.copied());
  StateDict state = training.optimizer.state_dict();
  for (auto& [name, tensor] : state.tensors) tensor = tensor.copied();
  const auto go_back = [&] {
    auto value = values.begin();
    for (const auto& entry : training.parameters.entries())
      std::memcpy(entry->writable(), (value++)->data(), entry->value.bytes());
    training.optimizer.load_state_dict(state);
    for (auto& [name, tensor] : state.tensors) tensor = tensor.copied();
  };
  const std::string before = training.bits(), after = never_failed.bits();
  ASSERT_NE(before, after);

  const std::size_t live = pool().live_bytes();
  const Failures failures = fail_each_allocation(
      [&] {
        training.step(1);
        return false;
      },
      [&] {
        drop_leftovers(training.parameters);
        if (kind.in_backward)
          go_back();  // some parameters have made their step
        else
          EXPECT_EQ(training.bits(), before);
        EXPECT_EQ(pool().live_bytes(), live);
        training.step(1);
        EXPECT_EQ(training.bits(), after);
        drop_leftovers(training.parameters);
        go_back();
      });
  EXPECT_GT(failures.of_library, 100);
#if !defined(REMAT_POOL_GUARD)  // whose blocks are no aligned_alloc's
  EXPECT_GT(failures.of_pool, 50);
#endif
  EXPECT_EQ(training.bits(), after);
}

TEST(OutOfMemory, LosesNothingInAStep) { expect_nothing_lost<float>({}); }
TEST(OutOfMemory, LosesNothingInARecomputation) { expect_nothing_lost<float>({.remat = policy::nothing}); }
TEST(OutOfMemory, LosesNothingThatIsOffloaded) { expect_nothing_lost<float>({.remat = offload(policy::dots)}); }
TEST(OutOfMemory, LosesNothingThatIsPacked) {
  expect_nothing_lost<float>({.remat = policy::lossy::int8(policy::dots)});
}
TEST(OutOfMemory, LosesNothingInBfloat16) { expect_nothing_lost<bfloat16>({.remat = policy::dots}); }
TEST(OutOfMemory, LosesNothingOfAdapters) { expect_nothing_lost<float>({.remat = policy::dots, .has_adapters = true}); }
TEST(OutOfMemory, LosesNothingOfUpdatesInBackward) {
  expect_nothing_lost<float>({.remat = policy::dots, .in_backward = true});
}
TEST(OutOfMemory, LosesNothingOfMuon) { expect_nothing_lost<float, optim::Muon>({.remat = policy::dots}); }

// What products pack into is each thread's own, and there is none in a new one.
TEST(OutOfMemory, LosesNothingOfMuonInAThreadThatNeverMultiplied) {
  const NothingWaits nothing_waits;
  ParameterRegistry parameters(5);
  const auto of_matrix = [&](const char* name, const Shape& shape) {
    const auto made = (parameters / name).parameter<float>("w", shape, init::normal(1));
    made.set_grad(made.value());
    return made;
  };
  const Parameter<float> first = of_matrix("first", {24, 40}), second = of_matrix("second", {400, 300});
  const ParameterRegistry copy(parameters);
  const auto bits = [](const ParameterRegistry& all) {
    std::string text;
    for (const auto& entry : all.entries())
      text.append(reinterpret_cast<const char*>(entry->value.data()), entry->value.bytes());
    return text;
  };
  optim::Muon muon(parameters), never_failed(copy);
  for (const auto& entry : copy.entries()) Parameter<float>(entry).set_grad(Parameter<float>(entry).value());
  never_failed.step(1e-2);
  const std::string before = bits(parameters);
  const Failures failures = fail_each_allocation(
      [&] {
        std::exception_ptr failure;
        std::thread([&] {
          const remat_test::Threads two(2);
          try {
            muon.step(1e-2);
          } catch (...) {
            failure = std::current_exception();
          }
        }).join();
        if (failure) std::rethrow_exception(failure);
        return false;
      },
      [&] {
        EXPECT_TRUE(first.has_grad() && second.has_grad());
        EXPECT_TRUE(bits(parameters) == before);
      },
      1, true);
  EXPECT_GT(failures.of_library, 5);
  EXPECT_TRUE(bits(parameters) == bits(copy));
}

// Destructors of Vars and values note things for plans, too.
TEST(OutOfMemory, LosesNothingInAPlan) {
  const NothingWaits nothing_waits;
  Training<float> training({.remat = policy::dots});
  std::size_t peak = 0;
  const auto work = [&] {
    peak = plan([&](Tape& tape) { return training.gpt.loss(tape, training.inputs, training.targets); }, CostModel{})
               .rows()
               .front()
               .stats.peak_bytes;
    return false;
  };
  work();
  const std::size_t expected = std::exchange(peak, 0), live = pool().live_bytes();
  fail_each_allocation(
      work, [&] { EXPECT_EQ(pool().live_bytes(), live); }, 7);
  EXPECT_EQ(peak, expected);
}

TEST(OutOfMemory, LosesNothingInAnEvaluation) {
  const NothingWaits nothing_waits;
  Training<float> training({});
  float loss = 0, expected = 0;
  const auto work = [&] {
    Tape tape({.mode = Mode::evaluate});
    loss = training.gpt.loss(tape, training.inputs, training.targets).item();
    return loss == expected;  // slots may then not be used again
  };
  work();
  expected = std::exchange(loss, 0.0F);
  const std::size_t live = pool().live_bytes();
  fail_each_allocation(work, [&] { EXPECT_EQ(pool().live_bytes(), live); });
  EXPECT_EQ(loss, expected);
}

// A model that could not be built has left nothing in the registry, neither parameters nor users of shared ids;
// adapters that could not be made have frozen nothing.
TEST(OutOfMemory, LeavesNothingOfAModelThatWasNotBuilt) {
  const NothingWaits nothing_waits;
  const auto text = [](const ParameterRegistry& parameters) {
    std::ostringstream all;
    all << parameters;
    for (const auto& [id, layers] : parameters.shared_ids())
      for (const std::string& layer : layers) all << id << ' ' << layer << '\n';
    return all.str();
  };
  /// `build` on copies of a registry.
  const auto expect_all_or_nothing = [&](const ParameterRegistry& from, auto&& build) {
    const std::string before = text(from);
    std::optional<ParameterRegistry> parameters(from);
    bool is_built = false;
    fail_each_allocation(
        [&] {
          is_built = false;
          build(*parameters);
          return is_built = true;  // sorting goes on without its buffer
        },
        [&] {
          EXPECT_TRUE(is_built || text(*parameters) == before);
          parameters.emplace(from);
        },
        2);
    EXPECT_NE(text(*parameters), before);
  };
  models::GptConfig config{.vocabulary = 5, .context = 3, .num_layers = 2, .model_dims = 8, .num_heads = 2};
  config.attention_shared_ids = {"a", "a"};
  expect_all_or_nothing(ParameterRegistry(5), [&](const ParameterRegistry& parameters) {
    const models::Gpt<float> gpt(parameters / "gpt", config);
  });
  ParameterRegistry with_model(5);
  const models::Gpt<float> gpt(with_model / "gpt", config);
  nn::LoraConfig lora;
  lora.rank = 2, lora.targets = {"*/ffn/*", "shared/a/*"};
  expect_all_or_nothing(with_model, [&](const ParameterRegistry& parameters) {
    const nn::Lora<float> adapters(parameters, parameters / "lora", lora);
  });
}

}  // namespace
