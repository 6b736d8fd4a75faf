// Transfers between ranks, in small pieces too, and calls that do not match.
#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "ranks.hpp"

namespace {

using namespace remat;
using namespace remat::distributed;
using remat_test::message_of;
using remat_test::world;

/// The transport of all ranks, for other groups of them.
struct Borrowed : Transport {
  Group of = world();
  int rank() const override { return of.rank(); }
  int size() const override { return of.size(); }
  void send(std::span<const std::byte> bytes, int to) override { of.transport().send(bytes, to); }
  void receive(std::span<std::byte> bytes, int from) override { of.transport().receive(bytes, from); }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    of.transport().exchange(out, to, in, from);
  }
  void broadcast(std::span<std::byte> bytes, int from) override { of.transport().broadcast(bytes, from); }
  std::shared_ptr<Transport> split(int color) override { return of.transport().split(color); }
  std::shared_ptr<Transport> on_one_machine() override { return of.transport().on_one_machine(); }
  [[noreturn]] void stop_all(int code) override {
    of.transport().stop_all(code);
    std::abort();
  }
};

/// The same ranks with messages of a few bytes, as though memory were longer than an int counts; and with every call
/// checked.
std::vector<Group> groups() {
  const auto over = [](const GroupOptions& options) { return Group(std::make_shared<Borrowed>(), options); };
  return {world(), over({.piece_bytes = 7}), over({.check = true}), over({.piece_bytes = 1, .check = true})};
}

TEST(Ranks, SumInTheirOrder) {
  for (const Group& group : groups()) {
    const auto of_rank = [](int rank, std::size_t i) {
      return 1.0F / static_cast<float>(3 * static_cast<int>(i) + 7 * rank * rank + 1) + (rank == 1 ? 4096.0F : 0.0F);
    };
    std::vector<float> values(11);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = of_rank(group.rank(), i);
    group.sum(std::span(values));
    for (std::size_t i = 0; i < values.size(); ++i) {
      float sum = of_rank(0, i);
      for (int r = 1; r < group.size(); ++r) sum += of_rank(r, i);
      EXPECT_EQ(values[i], sum) << i;
    }
    EXPECT_EQ(group.sum(group.rank() + 1), group.size() * (group.size() + 1) / 2);
  }
}

TEST(Ranks, GatherScatterAndBroadcast) {
  for (const Group& group : groups()) {
    const std::vector<int> mine(static_cast<std::size_t>(group.rank()), group.rank());  // none of the first
    const auto all = group.gather(std::span<const int>(mine));
    for (int r = 0; r < group.size(); ++r)
      EXPECT_EQ(all[static_cast<std::size_t>(r)], std::vector<int>(static_cast<std::size_t>(r), r));
    const int last = group.size() - 1;
    std::vector<std::vector<double>> rows;
    if (group.rank() == last)
      for (int r = 0; r < group.size(); ++r) rows.emplace_back(static_cast<std::size_t>(r + 2), 0.5 * r);
    EXPECT_EQ(group.scatter(rows, last),
              std::vector<double>(static_cast<std::size_t>(group.rank() + 2), 0.5 * group.rank()));
    EXPECT_EQ(group.broadcast(std::string(static_cast<std::size_t>(group.rank() + 1), 'x'), last),
              std::string(static_cast<std::size_t>(last + 1), 'x'));
    const Tensor<float> sent({2, 3}, {1, 2, 3, 4, 5, 6});
    EXPECT_TRUE(same_bits(group.broadcast(group.rank() == last ? sent : Tensor<float>(), last), sent));
    group.barrier();
  }
}

TEST(Ranks, SendTensorsRound) {
  for (const Group& group : groups()) {
    if (group.size() == 1) continue;
    const auto of_rank = [](int rank) { return Tensor<std::int32_t>({1, rank + 1}, rank); };
    const int next = (group.rank() + 1) % group.size(), before = (group.rank() + group.size() - 1) % group.size();
    if (group.is_first()) group.send(of_rank(group.rank()), next);
    EXPECT_TRUE(same_bits(group.receive<std::int32_t>(before), of_rank(before)));
    if (!group.is_first()) group.send(of_rank(group.rank()), next);
  }
}

TEST(Ranks, FallIntoSubGroups) {
  const Group& group = world();
  const Group part = group.sub(group.rank() % 2);
  EXPECT_EQ(part.size(), (group.size() + 1 - group.rank() % 2) / 2);
  EXPECT_EQ(part.rank(), group.rank() / 2);
  int expected = 0;
  for (int r = group.rank() % 2; r < group.size(); r += 2) expected += r;
  EXPECT_EQ(part.sum(group.rank()), expected);
  EXPECT_EQ(group.on_one_machine().size(), group.size());
}

TEST(Ranks, ShareTheCoresOfAMachine) {
  const CoreShare share = share_cores(world());
  EXPECT_EQ(share.ranks, world().size());
  EXPECT_EQ(share.threads, std::max(1, share.cores / world().size()));
}

TEST(Ranks, CallsThatDoNotMatchAreNamed) {
  if (world().size() == 1) return;
  const Group checked = groups()[2];
  const int last = checked.size() - 1;
  const std::string other_call = message_of([&] {
    if (checked.rank() == last)
      checked.barrier();
    else
      checked.sum(1.0);
  });
  EXPECT_NE(other_call.find("of rank 0 is sum of 8 bytes"), std::string::npos) << other_call;
  EXPECT_NE(other_call.find("of rank " + std::to_string(last) + " is barrier"), std::string::npos) << other_call;
  const std::string other_length = message_of([&] {
    std::vector<float> values(checked.rank() == last ? 3 : 2);
    checked.sum(std::span(values));
  });
  EXPECT_NE(other_length.find("is sum of 12 bytes"), std::string::npos) << other_length;
}

// Bytes that change on the way to the last rank, as by a broken network.
TEST(Ranks, OtherBytesThanTheFirstHasAreNoticed) {
  struct Broken final : Borrowed {
    void broadcast(std::span<std::byte> bytes, int from) override {
      Borrowed::broadcast(bytes, from);
      if (rank() == size() - 1) bytes.front() ^= std::byte{1};
    }
  };
  if (world().size() == 1) return;
  const Group checked(std::make_shared<Broken>(), {.check = true});
  const std::string said = message_of([&] { checked.broadcast(7); });
  EXPECT_NE(said.find("gave rank " + std::to_string(world().size() - 1) + " other bytes"), std::string::npos) << said;
}

TEST(Ranks, TellWhatTheirTransfersCameTo) {
  for (const Group& group : {groups()[0], groups()[1], groups()[2]}) {
    const Transfers before = group.transfers();
    std::vector<double> values(100);
    group.sum(std::span(values));
    const Transfers now = group.transfers();
    const auto sent = (now.bytes - before.bytes) * static_cast<std::size_t>(group.size());
    const std::size_t least = 2 * 800 * static_cast<std::size_t>(group.size() - 1);  // shares, and their sums
    EXPECT_GE(sent + 64, least);
    EXPECT_LE(sent, least + (group.options().check ? 100000 : 64));
    EXPECT_EQ(now.seconds > before.seconds, group.size() > 1);
    EXPECT_EQ(now.beside, before.beside);
  }
}

// MPI was told that one thread at a time calls it: what would be chance is an Error.
TEST(Ranks, TwoThreadsThatTransferAtOneTimeAreRefused) {
  if (world().size() == 1) return;
  const auto sleep = [](int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); };
  const int number = 7;
  if (world().rank() == 1) {
    sleep(400);  // rank 0 waits for it
    world().send(std::span(&number, 1), 0);
  } else if (world().is_first()) {
    int got = 0;
    std::thread other([&] { world().receive(std::span(&got, 1), 1); });
    sleep(100);
    const std::string said = message_of([&] { world().send(std::span(&number, 1), 1); });
    EXPECT_NE(said.find("two threads of this process transfer at one time"), std::string::npos) << said;
    other.join();
    EXPECT_EQ(got, number);
  }
  world().barrier();
}

TEST(Ranks, BeginWithTheSameParameters) {
  const auto fill = [](const ParameterRegistry& parameters) {
    (parameters / "a").parameter<float>("w", {3}, init::normal(1));
    (parameters / "b").parameter<float>("w", {3}, init::normal(1));
  };
  const ParameterRegistry same(1);
  fill(same);
  EXPECT_NO_THROW(require_equal(world(), same));
  if (world().size() == 1) return;
  const int last = world().size() - 1;
  if (world().rank() == last) same.at<float>("b/w").set_value(Tensor<float>({3}, 0.5F));
  const std::string difference = message_of([&] { require_equal(world(), same); });
  EXPECT_NE(difference.find("b/w of rank " + std::to_string(last)), std::string::npos) << difference;
  broadcast_values(world(), same);
  EXPECT_NO_THROW(require_equal(world(), same));
  const std::string fact =
      message_of([&] { world().require_equal("the text", world().rank() == last ? "other" : "one"); });
  EXPECT_NE(fact.find("the text is one on rank 0 and other on rank " + std::to_string(last)), std::string::npos);
  if (world().rank() == last) (same / "c").parameter<float>("w", {3}, init::zeros());
  const std::string more = message_of([&] { require_equal(world(), same); });
  EXPECT_NE(more.find("rank " + std::to_string(last) + " has 3 parameters, rank 0 2"), std::string::npos) << more;
}

}  // namespace
