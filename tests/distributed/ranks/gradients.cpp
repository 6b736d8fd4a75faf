// Sums of gradients over ranks: what they hold, when they are made, and what other libraries got wrong about them.
#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <remat/models.hpp>
#include <string>
#include <thread>
#include <vector>

#include "trainer.hpp"

namespace {

using namespace remat;
using namespace remat::distributed;
using namespace remat_test;

/// Parameters of all kinds of sizes, some of several runs of the norm and cut between ranks within one.
void fill(const ParameterRegistry& parameters) {
  const Scope scope = parameters / "model";
  for (const auto& [name, shape] : std::vector<std::pair<const char*, Shape>>{
           {"a", {7}}, {"b", {40000}}, {"c", {3, 5000}}, {"d", {2048}}, {"e", {20000}}, {"f", {1}}})
    scope.parameter<float>(name, shape, init::normal(1));
}
Tensor<float> gradient(const Shape& shape, Index of) {
  Tensor<float> values(shape);
  const RandomStream random{9, static_cast<std::uint32_t>(of), 0};
  for (Index i = 0; i < values.size(); ++i)
    values.write()[i] = static_cast<float>(random.word(static_cast<std::uint64_t>(i)) % 1000) / 7.0F;
  return values.copy();
}

// As one process has it, wherever shards are cut: the scale of a clipped step depends on its last bit.
TEST(Gradients, OfShardsHaveTheNormOfTheWhole) {
  for (const std::size_t bucket : {std::size_t{1}, std::size_t{100000}, std::size_t{1} << 30}) {
    const ParameterRegistry whole(1), shard(1);
    fill(whole), fill(shard);
    GradientSum one(whole), all(shard, world(), {.bucket_bytes = bucket, .own_shard_only = true});
    const Index count = 4;
    const auto give = [&](const ParameterRegistry& parameters, GradientSum& sum) {
      const Range mine = sum.begin(count);
      for (Index i = mine.begin; i < mine.end; ++i) {
        for (const auto& entry : parameters.entries())
          if (entry->path != "model/d") Parameter<float>(entry).set_grad(gradient(entry->value.shape, i));
        sum.add();
      }
      sum.finish();
    };
    give(whole, one), give(shard, all);
    EXPECT_EQ(one.norm(), optim::global_norm(whole));
    EXPECT_EQ(all.norm(), one.norm()) << bucket;
    // What is elsewhere is an error and no zero.
    EXPECT_NE(message_of([&] { static_cast<void>(optim::global_norm(shard)); }).find("was used up"), std::string::npos);
    EXPECT_THROW(all.begin(count), Error);
    EXPECT_FALSE(shard.at<float>("model/b").has_grad());
  }
}

TEST(Gradients, ThatAreNotFiniteAreNamedOnAllRanks) {
  const ParameterRegistry parameters(1);
  fill(parameters);
  GradientSum sum(parameters, world(), {.own_shard_only = true});
  const Range mine = sum.begin(world().size());
  for (Index i = mine.begin; i < mine.end; ++i) {
    for (const auto& entry : parameters.entries())
      Parameter<float>(entry).set_grad(
          Tensor<float>(entry->value.shape, entry->path == "model/c" && i == 0 ? std::nanf("") : 1.0F));
    sum.add();
  }
  sum.finish();
  EXPECT_NE(message_of([&] { static_cast<void>(sum.norm()); }).find("model/c is not finite"), std::string::npos);
}

// What a rank does not own goes bucket by bucket while backward runs: with one micro-batch a rank, all gradients are
// never there at once.
TEST(Gradients, ThatOthersOwnAreFreedInBackward) {
  if (world().size() == 1) return;
  const std::size_t bucket = 6000;
  ParameterRegistry parameters(5);
  const models::Gpt<float> gpt(parameters / "gpt", Trainer<float>::config({}));
  GradientSum sum(parameters, world(), {.bucket_bytes = bucket, .own_shard_only = true});
  std::size_t total = 0, largest = 0;
  for (const auto& entry : parameters.entries()) {
    total += entry->value.bytes();
    largest = std::max(largest, entry->value.bytes());
  }
  std::size_t shard = 0;
  for (std::size_t e = 0; e < sum.shards()->entries().size(); ++e) {
    const auto [begin, end] = sum.shards()->range(world().rank(), e);
    shard += static_cast<std::size_t>(end - begin) * sizeof(float);
  }
  const auto batch = tokens(world().size() * rows, gpt.config.context, 29);
  for (Index step = 0; step < 2; ++step) {  // in the first ranks learn in which order parameters are complete
    const Index i = sum.begin(world().size()).begin;
    Tape tape({.seed = 11, .step = step, .first_row = i * rows, .rows = rows});
    const Tokens part{batch.inputs.slice(i * rows, (i + 1) * rows), batch.targets.slice(i * rows, (i + 1) * rows)};
    const auto loss = gpt.loss(tape, part);
    std::size_t most = 0;
    const auto hook = sum.in_backward();
    tape.backward(loss, [&](ParameterEntry& entry) {
      most = std::max(most, parameters.grad_bytes() + sum.held_bytes());
      hook(entry);
    });
    EXPECT_GT(most, 0U);
    // Beside its shard, the table that is complete last, a bucket, and what one op adds to.
    const std::size_t expected = step == 0 ? total + 1 : std::min(total, shard + 2 * largest + 2 * bucket);
    EXPECT_LT(most, expected) << step;
    sum.add(static_cast<double>(loss.item()));
    EXPECT_EQ(parameters.grad_bytes() + sum.held_bytes(), shard);
    sum.finish();
    EXPECT_EQ(parameters.grad_bytes() + sum.held_bytes(), shard);
    parameters.zero_grad();
  }
}

// The copies that the tree needs, to the byte: plans count them.
TEST(Gradients, ThatWaitAreForeseen) {
  for (const Index count : {1, 2, 3, 5, 8, 11}) {
    Trainer<float> trainer(world(), {.micro_batches = count});
    Outcome outcome;
    trainer.step(0, outcome);
    const auto waited = world().gather(static_cast<std::uint64_t>(trainer.sum().waited_bytes()));
    EXPECT_EQ(*std::max_element(waited.begin(), waited.end()), trainer.sum().waiting_bytes(count)) << count;
  }
}

/// Counts what is carried.
struct Counted final : Transport {
  explicit Counted(Group group) : of(std::move(group)) {}
  Group of;
  Index calls = 0;
  int rank() const override { return of.rank(); }
  int size() const override { return of.size(); }
  void send(std::span<const std::byte> bytes, int to) override { ++calls, of.transport().send(bytes, to); }
  void receive(std::span<std::byte> bytes, int from) override { ++calls, of.transport().receive(bytes, from); }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    ++calls, of.transport().exchange(out, to, in, from);
  }
  void broadcast(std::span<std::byte> bytes, int from) override { ++calls, of.transport().broadcast(bytes, from); }
  std::shared_ptr<Transport> split(int color) override { return of.transport().split(color); }
  std::shared_ptr<Transport> on_one_machine() override { return of.transport().on_one_machine(); }
  [[noreturn]] void stop_all(int code) override {
    of.transport().stop_all(code);
    std::abort();
  }
};

// Transfers take their time while the next gradients are made, and the group says which part was hidden so.
TEST(Gradients, AreSummedBesideBackwardWhereTheyOverlap) {
  if (world().size() == 1) return;
  for (const bool overlap : {false, true}) {
    const Group group(std::make_shared<Counted>(world()), {.delay = 0.005});
    const ParameterRegistry parameters(1);
    fill(parameters);
    GradientSum sum(parameters, group, {.bucket_bytes = 1, .own_shard_only = true, .overlap = overlap});
    const Index i = sum.begin(world().size()).begin;
    const auto hook = sum.in_backward();
    for (std::size_t e = parameters.entries().size(); e-- > 0;) {
      const auto entry = parameters.entries()[e];
      Parameter<float>(entry).set_grad(gradient(entry->value.shape, i));
      hook(*entry);
      std::this_thread::sleep_for(std::chrono::milliseconds(40));  // that of the layer before is computed
    }
    sum.add();
    const auto in_backward = group.transfers();
    sum.finish();
    EXPECT_GT(in_backward.bytes, 0U);
    EXPECT_GT(in_backward.seconds, 6 * 0.005);  // of each bucket one at least
    EXPECT_EQ(in_backward.beside, overlap ? in_backward.seconds : 0);
    EXPECT_LE(sum.waited_seconds(), 0.9 * group.transfers().beside);
  }
}

// Recomputation must not double traffic: a step under any policy makes the calls of one that recomputes nothing.
TEST(Gradients, AReplayCommunicatesNothing) {
  const auto calls = [](const char* policy, int zero) {
    const auto counted = std::make_shared<Counted>(world());
    Trainer<float> trainer(Group(counted), {.policy = policy, .zero = zero});
    const Index before = counted->calls;
    Outcome outcome;
    trainer.step(0, outcome);
    return counted->calls - before;
  };
  for (const int zero : {0, 1, 2}) {
    const Index expected = calls("everything", zero);
    EXPECT_EQ(expected > 0, world().size() > 1);
    EXPECT_EQ(calls("nothing", zero), expected) << zero;
    EXPECT_EQ(calls("dots", zero), expected) << zero;
  }
}

// Each rank has measured another machine, and would choose another plan; all take that of the first.
TEST(Gradients, RanksThatWouldChooseDifferentPoliciesTakeOne) {
  ParameterRegistry parameters(5);
  models::Gpt<float> gpt(parameters / "gpt", Trainer<float>::config({.policy = "nothing"}));
  const auto part = tokens(rows, gpt.config.context, 29);
  const auto made = plan([&](Tape& tape) { return gpt.loss(tape, part); });
  const auto own = made.frontier()[world().is_first() ? 0 : made.frontier().size() - 1].policy;
  if (world().size() > 1) {
    const std::string refused = message_of([&] { require_same_policy(world(), own); });
    EXPECT_NE(refused.find("rank 1 has another policy than rank 0"), std::string::npos) << refused;
  }
  int asked = 0;
  const Policy agreed = agree_on_policy(world(), [&] { return ++asked, own; });
  EXPECT_EQ(asked, world().is_first() ? 1 : 0);
  EXPECT_EQ(policy::to_string(agreed), policy::to_string(made.frontier().front().policy));
  EXPECT_NO_THROW(require_same_policy(world(), agreed));
  gpt.set_remat(agreed);
  Tape tape({.seed = 1, .step = 0});
  tape.backward(gpt.loss(tape, part));
  EXPECT_EQ(tape.stats().peak_bytes, made.frontier().front().stats.peak_bytes);
  // What the first cannot choose, none has.
  const std::string failed = message_of([&] { agree_on_policy(world(), [&] { return made.within(1); }); });
  EXPECT_NE(failed.find("the least possible is"), std::string::npos) << failed;
  if (world().size() == 1) return;
  EXPECT_THROW(agree_on_policy(world(), [] { return Policy([](const SlotInfo&) { return true; }); }), Error);
}

/// A layer, and one behind it whose result is read in the first micro-batch alone: elsewhere its region is a tail that
/// nobody reads, and its parameters have no gradient.
template <class Body>
std::vector<Tensor<float>> summed(const Group& group, const GradientSumOptions& options, Index count, Body&& body) {
  ParameterRegistry parameters(5);
  const nn::Linear<float> first(parameters / "first", {.input_dims = 6, .output_dims = 6});
  const nn::Linear<float> tail(parameters / "tail", {.input_dims = 6, .output_dims = 6});
  GradientSum sum(parameters, group, options);
  ShardedAdamW adamw(sum);
  for (Index step = 0; step < 2; ++step) {
    const Range mine = sum.begin(count);
    std::vector<double> targets;
    for (Index i = mine.begin; i < mine.end; ++i) targets.push_back(static_cast<double>(body.rows_of(i)));
    const auto shares = token_shares(group, targets);
    for (Index i = mine.begin; i < mine.end; ++i) {
      Tape tape({.seed = 1, .step = step, .first_row = 3 * i, .rows = body.rows_of(i)});
      const auto x = tape.input(gradient({body.rows_of(i), 6}, i + 10 * step));
      const auto loss = body.loss(tape, first, tail, x, i) * shares[static_cast<std::size_t>(i - mine.begin)];
      tape.backward(loss, sum.in_backward());
      sum.add(static_cast<double>(loss.item()));
    }
    sum.finish();
    adamw.step(sum, 1e-2, optim::clip_scale(sum.norm(), 1.0));
  }
  std::vector<Tensor<float>> values;
  for (const auto& entry : parameters.entries()) values.push_back(Parameter<float>(entry).value().copy());
  return values;
}
const std::vector<GradientSumOptions> ways{
    {}, {.bucket_bytes = 1}, {.own_shard_only = true}, {.bucket_bytes = 1, .own_shard_only = true}};

TEST(Gradients, OfATailThatNobodyReadsAreNotWaitedFor) {
  struct Body {
    Index rows_of(Index) const { return 3; }
    Var<float> loss(Tape& tape, const nn::Linear<float>& first, const nn::Linear<float>& tail, const Var<float>& x,
                    Index i) const {
      return tape.region(policy::nothing, [&] {
        const auto y = gelu(first(x));
        const auto z = gelu(tail(y));
        return mean(square(i == 0 ? z : y));
      });
    }
  };
  const Index count = 4;
  const auto one = summed(Group(), {}, count, Body());
  for (const auto& way : ways) EXPECT_TRUE(same_tensors(one, summed(world(), way, count, Body())));
}

// The last micro-batch has fewer rows, and counts by them.
TEST(Gradients, OfUnevenMicroBatchesCountByTheirTokens) {
  struct Body {
    Index rows_of(Index i) const { return i == 4 ? 1 : 3; }
    Var<float> loss(Tape&, const nn::Linear<float>& first, const nn::Linear<float>& tail, const Var<float>& x,
                    Index) const {
      return mean(square(tail(gelu(first(x)))));
    }
  };
  const auto one = summed(Group(), {}, 5, Body());
  for (const auto& way : ways) EXPECT_TRUE(same_tensors(one, summed(world(), way, 5, Body())));
}

// Ranks that cut a batch otherwise are told, and do not wait for each other.
TEST(Gradients, OfAnotherNumberOfMicroBatchesAreRefused) {
  if (world().size() == 1) return;
  const ParameterRegistry parameters(1);
  fill(parameters);
  GradientSum sum(parameters, world());
  const bool is_other = world().rank() == world().size() - 1;
  const Range mine = sum.begin(is_other ? 9 : 4);
  for (Index i = mine.begin; i < mine.end; ++i) {
    parameters.at<float>("model/a").set_grad(gradient({7}, i));
    sum.add();
  }
  const std::string said = message_of([&] { sum.finish(); });
  EXPECT_NE(said.find("all ranks build one model and cut one batch"), std::string::npos) << said;
}

TEST(Gradients, AreUpdatedByAnOptimizerOfTheirOwnShardsAlone) {
  const ParameterRegistry parameters(1);
  fill(parameters);
  GradientSum sum(parameters, world(), {.bucket_bytes = 1000, .own_shard_only = true});
  ShardedAdamW other(world(), parameters), own(sum);
  EXPECT_THROW(sum.begin(1, other.in_backward(1e-2)), Error);
  const Range mine = sum.begin(1);
  for (Index i = mine.begin; i < mine.end; ++i) {
    for (const auto& entry : parameters.entries()) Parameter<float>(entry).set_grad(gradient(entry->value.shape, i));
    sum.add();
  }
  sum.finish();
  EXPECT_THROW(other.step(sum, 1e-2), Error);  // dealt out otherwise
  EXPECT_THROW(own.step(1e-2), Error);         // which needs all of them in the registry
  own.step(sum, 1e-2);
  EXPECT_THROW(own.step(sum, 1e-2), Error);  // once
}

// A parameter of no elements, so that nothing is sent that would wait for those that refuse it.
TEST(Gradients, StatesOfAnotherModelAreRefused) {
  if (world().size() == 1) return;
  const ParameterRegistry parameters(1);
  if (world().is_first()) (parameters / "model").parameter<float>("more", {0}, init::zeros());
  ShardedAdamW shards(world(), parameters);
  StateDict state;
  if (world().is_first()) state.tensors.emplace("model/more/m", Tensor<float>({0}).any());
  const std::string said = message_of([&] { shards.load_state_dict(state); });
  EXPECT_EQ(said.find("has \"model/more/m\", which rank") != std::string::npos, !world().is_first()) << said;
}

}  // namespace
