// Signals that come while a library multiplies: a training is told to stop, a timer runs out.
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdint>
#include <kernels/with_each_backend.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/gemm.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

using remat::Index;
using remat::kernels::Gemm;
using remat::kernels::Trans;

std::atomic<std::uintptr_t> lowest, highest;  // bytes of the stack of the thread that multiplies
std::atomic<int> handled, elsewhere;

void note_where(int) {
  const char here = 0;
  const auto at = reinterpret_cast<std::uintptr_t>(&here);
  elsewhere += at < lowest || at >= highest;
  ++handled;
}

void note_stack() {
  pthread_attr_t attributes;
  void* begin = nullptr;
  std::size_t bytes = 0;
  ASSERT_EQ(pthread_getattr_np(pthread_self(), &attributes), 0);
  pthread_attr_getstack(&attributes, &begin, &bytes);
  pthread_attr_destroy(&attributes);
  lowest = reinterpret_cast<std::uintptr_t>(begin);
  highest = lowest + bytes;
}

// Multiplies until so many signals have been handled.
void multiply_until(int signals, const Gemm& shape, const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> first(static_cast<std::size_t>(shape.m * shape.n)), c(first.size());
  remat::kernels::gemm(shape, a.data(), b.data(), first.data());
  while (handled < signals) {
    remat::kernels::gemm(shape, a.data(), b.data(), c.data());
    ASSERT_EQ(c, first);
  }
}

// oneDNN's kernels of floats use a block of the heap as their stack: what lies below it was overwritten.
TEST(GemmSignals, AreHandledOnTheStackOfTheThreadWhoeverMultiplies) {
  struct sigaction action {
  }, before{};
  action.sa_handler = note_where;
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  remat_test::with_each_backend([&] {
    for (const Index m : {Index{48}, Index{256}}) {  // by SGEMM, and large enough for a primitive
      for (const Trans trans : {Trans::no, Trans::yes}) {
        SCOPED_TRACE(std::to_string(m) + (trans == Trans::no ? " nt" : " tn"));
        const Gemm shape{.a = trans, .b = trans == Trans::no ? Trans::yes : Trans::no, .m = m, .n = 256, .k = 384};
        const std::vector<float> a(static_cast<std::size_t>(shape.m * shape.k), 0.5F);
        const std::vector<float> b(static_cast<std::size_t>(shape.n * shape.k), 0.25F);
        handled = 0, elsewhere = 0;
        std::atomic<bool> ready = false, done = false;
        std::thread multiplying([&] {
          note_stack();
          ready = true;
          ready.notify_one();
          multiply_until(60, shape, a, b);
          done = true;
        });
        ready.wait(false);
        while (!done) {
          pthread_kill(multiplying.native_handle(), SIGUSR1);
          std::this_thread::yield();
        }
        multiplying.join();
        EXPECT_EQ(elsewhere, 0) << "of " << handled << " signals";
      }
    }
  });
  sigaction(SIGUSR1, &before, nullptr);
}

}  // namespace
