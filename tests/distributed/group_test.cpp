// Groups by themselves: one process, and messages that no memory holds.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <remat/distributed/agree.hpp>
#include <remat/distributed/group.hpp>
#include <remat/distributed/mpi.hpp>
#include <remat/distributed/threads.hpp>
#include <remat/remat.hpp>
#include <vector>

namespace {

using namespace remat;
using namespace remat::distributed;

struct Piece {
  const std::byte* begin;
  std::size_t size;
};

/// Rank 0 of two that notes what it would carry.
class Noted final : public Transport {
 public:
  std::vector<Piece> sent, received;

  int rank() const override { return 0; }
  int size() const override { return 2; }
  void send(std::span<const std::byte> bytes, int) override { sent.push_back({bytes.data(), bytes.size()}); }
  void receive(std::span<std::byte> bytes, int) override { received.push_back({bytes.data(), bytes.size()}); }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    if (!out.empty()) send(out, to);
    if (!in.empty()) receive(in, from);
  }
  void broadcast(std::span<std::byte> bytes, int) override { sent.push_back({bytes.data(), bytes.size()}); }
  std::shared_ptr<Transport> split(int) override { return nullptr; }
  std::shared_ptr<Transport> on_one_machine() override { return nullptr; }
  [[noreturn]] void stop_all(int code) override { std::exit(code); }
};

/// Addresses without memory behind them.
struct Reserved {
  std::size_t size;
  void* begin = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ~Reserved() { munmap(begin, size); }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(begin), size}; }
};

void expect_whole(const std::vector<Piece>& pieces, std::span<const std::byte> bytes) {
  const std::byte* next = bytes.data();
  for (const Piece& piece : pieces) {
    EXPECT_EQ(piece.begin, next);
    EXPECT_LE(piece.size, std::size_t{1} << 30);  // MPI counts in int
    next += piece.size;
  }
  EXPECT_EQ(next, bytes.data() + bytes.size());
}

TEST(Group, CutsWhatAnIntCannotCount) {
  const Reserved memory{(std::size_t{5} << 30) + 3};
  ASSERT_NE(memory.begin, MAP_FAILED);
  const auto noted = std::make_shared<Noted>();
  const Group group(noted);
  group.send(std::span<const std::byte>(memory.bytes()), 1);
  EXPECT_EQ(noted->sent.size(), 6U);
  expect_whole(noted->sent, memory.bytes());
  noted->sent.clear();
  group.broadcast(memory.bytes());
  expect_whole(noted->sent, memory.bytes());
  noted->sent.clear();
  const auto longer = memory.bytes().first((std::size_t{3} << 30) + 1);
  group.exchange(longer, 1, memory.bytes(), 1);
  expect_whole(noted->sent, longer);
  expect_whole(noted->received, memory.bytes());
}

TEST(Group, PiecesMustBeCountableByMpi) {
  EXPECT_THROW(Group(std::make_shared<Noted>(), {.piece_bytes = 0}), Error);
  EXPECT_THROW(Group(std::make_shared<Noted>(), {.piece_bytes = (std::size_t{1} << 30) + 1}), Error);
}

TEST(Group, PatienceIsANumberOfSeconds) {
  for (const double patience : {-1.0, 2e6, std::nan("")})
    EXPECT_THROW(Group(std::make_shared<Noted>(), {.patience = patience}), Error) << patience;
  setenv("REMAT_RANK_PATIENCE", "soon", 1);
  EXPECT_THROW(Group(std::make_shared<Noted>()), Error);
  setenv("REMAT_RANK_PATIENCE", "0.5", 1);
  EXPECT_EQ(Group(std::make_shared<Noted>()).options().patience, 0.5);
  unsetenv("REMAT_RANK_PATIENCE");
}

TEST(Group, WaitsBeforeTransfersWhereItIsAsked) {
  for (const double delay : {-1.0, 61.0, std::nan("")})
    EXPECT_THROW(Group(std::make_shared<Noted>(), {.delay = delay}), Error) << delay;
  const auto noted = std::make_shared<Noted>();
  const Group slow(noted, {.delay = 0.02});
  const std::vector<float> one{1};
  const auto start = std::chrono::steady_clock::now();
  slow.send(std::span(one), 1), slow.send(std::span(one), 1);
  EXPECT_GE(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 0.04);
  EXPECT_EQ(noted->sent.size(), 2U);
}

TEST(Group, RefusesToSendToItselfOrToNobody) {
  const Group group(std::make_shared<Noted>());
  const std::vector<float> one{1};
  for (const int to : {0, 2, -1}) EXPECT_THROW(group.send(std::span(one), to), Error) << to;
}

// A group of one has nobody to talk to, whether it is asked or what carries its bytes.
TEST(Group, OfOneProcessRefusesOthers) {
  const Group group;
  EXPECT_THROW(group.broadcast(1, 1), Error);
  EXPECT_THROW(group.scatter(std::vector<std::vector<int>>{{1}, {2}}), Error);
  std::byte byte{};
  Transport& transport = group.transport();
  EXPECT_THROW(transport.send({&byte, 1}, 0), Error);
  EXPECT_THROW(transport.receive({&byte, 1}, 0), Error);
  EXPECT_THROW(transport.exchange({&byte, 1}, 0, {&byte, 1}, 0), Error);
}

TEST(Group, OfOneProcessGivesBackWhatItGets) {
  int argc = 0;
  char** argv = nullptr;
  const Group group = distributed::init(argc, argv);
  EXPECT_EQ(group.size(), 1);
  EXPECT_TRUE(group.is_first());
  EXPECT_EQ(group.sum(2.5), 2.5);
  EXPECT_EQ(group.gather(7), std::vector<int>{7});
  EXPECT_EQ(group.broadcast(std::string("text")), "text");
  EXPECT_EQ(group.scatter(std::vector<std::vector<int>>{{1, 2}}), (std::vector<int>{1, 2}));
  const Tensor<float> tensor({2, 2}, {1, 2, 3, 4});
  EXPECT_TRUE(same_bits(group.broadcast(tensor), tensor));
  group.barrier();
  EXPECT_EQ(group.sub(3).size(), 1);
  EXPECT_EQ(share_cores(group).ranks, 1);
}

TEST(Group, RunReturnsWhatTheBodyReturns) {
  int argc = 0;
  char** argv = nullptr;
  EXPECT_EQ(distributed::run(argc, argv, [](const Group&) { return 3; }), 3);
}

TEST(Group, SharesOfTokensSumInTheOrderOfMicroBatches) {
  const std::vector<double> tokens{5, 0, 15};
  EXPECT_EQ(token_shares(Group(), tokens), (std::vector<double>{0.25, 0, 0.75}));
  EXPECT_THROW(token_shares(Group(), std::vector<double>{0.0}), Error);
}

}  // namespace
