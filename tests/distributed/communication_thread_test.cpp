// The thread that communicates beside one that computes: order, bounds, errors, and an owner that is gone.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <remat/core/error.hpp>
#include <remat/distributed/communication_thread.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

using remat::distributed::detail::CommunicationThread, remat::distributed::detail::waits_asleep;

TEST(CommunicationThread, RunsTasksInOrderBesideItsOwner) {
  CommunicationThread thread;
  std::promise<void> go;
  std::vector<int> done;
  bool is_asleep = false;
  thread.post([&, gate = go.get_future().share()] { gate.wait(), is_asleep = waits_asleep(), done.push_back(0); }, 9);
  for (int i = 1; i < 5; ++i) thread.post([&, i] { done.push_back(i); }, 9);
  EXPECT_EQ(thread.unfinished(), 5U);  // its owner has not waited for any
  go.set_value();
  thread.wait();
  EXPECT_EQ(thread.unfinished(), 0U);
  EXPECT_EQ(done, (std::vector<int>{0, 1, 2, 3, 4}));
  EXPECT_TRUE(is_asleep);
  EXPECT_FALSE(waits_asleep());
}

TEST(CommunicationThread, HasNoMoreThanSoManyTasks) {
  CommunicationThread thread;
  std::atomic<int> running{0}, most{0};
  for (int i = 0; i < 20; ++i) {
    ++running;
    thread.post([&] { std::this_thread::sleep_for(std::chrono::milliseconds(1)), --running; }, 2);
    EXPECT_LE(thread.unfinished(), 2U);
    most = std::max<int>(most, running);
  }
  thread.wait();
  EXPECT_LE(most, 3);  // two that are there, and one that waits to be taken
}

TEST(CommunicationThread, CarriesErrorsToItsOwner) {
  CommunicationThread thread;
  bool is_later_run = false;
  thread.post([] { remat::fail("rank 1 has another model"); }, 9);
  const auto said = [&](auto&& call) -> std::string {
    try {
      call();
    } catch (const remat::Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_EQ(said([&] { thread.wait(); }), "rank 1 has another model");
  EXPECT_EQ(said([&] { static_cast<void>(thread.unfinished()); }), "rank 1 has another model");
  EXPECT_EQ(said([&] { thread.post([&] { is_later_run = true; }, 9); }), "rank 1 has another model");
  EXPECT_FALSE(is_later_run);
}

// An exception that ends a step must end the program at once, though a transfer waits for a rank that is busy.
TEST(CommunicationThread, IsNotWaitedForWhereItsOwnerGoes) {
  const auto held = std::make_shared<int>(7);
  std::promise<void> begun, go;
  {
    CommunicationThread thread;
    thread.post([held, &begun, gate = go.get_future().share()] { begun.set_value(), gate.wait(); }, 9);
    thread.post([held] { ADD_FAILURE() << "a task ran whose owner was gone"; }, 9);
    begun.get_future().wait();
  }
  EXPECT_GT(held.use_count(), 1);  // what it works on is still there
  go.set_value();
  for (int i = 0; i < 2000 && held.use_count() > 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
