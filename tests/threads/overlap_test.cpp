// Gradients that are summed by a thread beside backward: ranks are threads of this process here, so that
// ThreadSanitizer sees all of them.
#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <remat/autodiff/tape.hpp>
#include <remat/distributed/gradient_sum.hpp>
#include <remat/distributed/sharded.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <thread>
#include <vector>

namespace {

using namespace remat;
using namespace remat::distributed;

constexpr int ranks = 2;

/// Messages on their way between threads.
struct Letters {
  std::mutex mutex{};
  std::condition_variable changed{};
  std::array<std::array<std::deque<std::vector<std::byte>>, ranks>, ranks> sent{};  // from, to
};

class BetweenThreads final : public Transport {
 public:
  BetweenThreads(std::shared_ptr<Letters> letters, int rank) : letters_(std::move(letters)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return ranks; }
  void send(std::span<const std::byte> bytes, int to) override {
    const std::lock_guard lock(letters_->mutex);
    letters_->sent[index(rank_)][index(to)].emplace_back(bytes.begin(), bytes.end());
    letters_->changed.notify_all();
  }
  void receive(std::span<std::byte> bytes, int from) override {
    std::unique_lock lock(letters_->mutex);
    auto& mine = letters_->sent[index(from)][index(rank_)];
    letters_->changed.wait(lock, [&] { return !mine.empty(); });
    ASSERT_EQ(mine.front().size(), bytes.size());
    std::copy(mine.front().begin(), mine.front().end(), bytes.begin());
    mine.pop_front();
  }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    if (!out.empty()) send(out, to);
    if (!in.empty()) receive(in, from);
  }
  void broadcast(std::span<std::byte> bytes, int from) override {
    rank_ == from ? send(bytes, 1 - from) : receive(bytes, from);
  }
  std::shared_ptr<Transport> split(int) override { return nullptr; }
  std::shared_ptr<Transport> on_one_machine() override { return nullptr; }
  [[noreturn]] void stop_all(int code) override { std::exit(code); }

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
  std::shared_ptr<Letters> letters_;
  int rank_;
};

/// Weights after three steps of five micro-batches.
std::vector<Tensor<float>> trained(const Group& group, const GradientSumOptions& options, bool updates_in_backward) {
  ParameterRegistry parameters(3);
  std::vector<Parameter<float>> weights;
  for (int i = 0; i < 12; ++i)
    weights.push_back((parameters / "layer").parameter<float>(std::to_string(i), {1000 + 300 * i}, init::normal(1)));
  GradientSum sum(parameters, group, options);
  ShardedAdamW adamw(sum);
  for (Index step = 0; step < 3; ++step) {
    const Range mine = sum.begin(5, updates_in_backward ? adamw.in_backward(1e-2) : ShardUpdate{});
    for (Index i = mine.begin; i < mine.end; ++i) {
      Tape tape({.seed = 1, .step = step});
      Var<float> loss = tape.input(Tensor<float>(Shape{}, static_cast<float>(i)));
      for (const Parameter<float>& weight : weights) loss = loss + mean(sin(tape.parameter(weight) * loss));
      tape.backward(loss, sum.in_backward());
      sum.add(static_cast<double>(loss.item()));
    }
    sum.finish();
    if (!updates_in_backward) adamw.step(sum, 1e-2, optim::clip_scale(sum.norm(), 1.0));
  }
  std::vector<Tensor<float>> values;
  for (const auto& entry : parameters.entries()) values.push_back(Parameter<float>(entry).value().copy());
  return values;
}

// The thread that trains makes gradients, and updates weights, while the other adds up and sends those that it was
// given.
TEST(Overlap, OfSumsAndBackwardHasTheBitsOfOneProcess) {
  for (const bool updates_in_backward : {false, true})
    for (const bool own_shard_only : {false, true}) {
      if (updates_in_backward && !own_shard_only) continue;
      const GradientSumOptions options{.bucket_bytes = 20000, .own_shard_only = own_shard_only, .overlap = true};
      const auto one = trained(Group(), options, updates_in_backward);
      const auto letters = std::make_shared<Letters>();
      std::array<std::vector<Tensor<float>>, ranks> all;
      std::vector<std::thread> threads;
      for (int r = 0; r < ranks; ++r)
        threads.emplace_back([&, r] {
          all[static_cast<std::size_t>(r)] =
              trained(Group(std::make_shared<BetweenThreads>(letters, r)), options, updates_in_backward);
        });
      for (std::thread& thread : threads) thread.join();
      for (const auto& mine : all) {
        ASSERT_EQ(mine.size(), one.size());
        for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(same_bits(mine[i], one[i])) << own_shard_only << i;
      }
    }
}

}  // namespace
