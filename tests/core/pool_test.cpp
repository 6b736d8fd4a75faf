// The pool: every byte aligned, counted, reused.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <core/expect_error.hpp>
#include <cstdint>
#include <cstring>
#include <remat/core/process_memory.hpp>
#include <remat/core/tensor.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace remat;
using remat_test::expect_error;

// Protects vector kernels and the counts: 64-byte alignment and rounding at all sizes, the huge included.
TEST(Pool, AlignsAndCounts) {
  for (const std::size_t bytes : {0UL, 1UL, 63UL, 64UL, 65UL, 511UL, 513UL, 4097UL, 1000003UL, 5UL << 20}) {
    const std::size_t before = pool().live_bytes();
    pool().reset_peak();
    {
      const Storage block = pool().allocate(bytes);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block->data()) % alignment, 0U);
      std::memset(block->data(), 1, bytes);
      EXPECT_EQ(pool().live_bytes(), before + round_up(bytes));
    }
    EXPECT_EQ(pool().live_bytes(), before);
    EXPECT_EQ(pool().peak_bytes(), before + round_up(bytes));
  }
}

struct Holder {
  Storage block;
  Tensor<float> tensor;
  template <class = void>
  void let_go() {
    block = {}, tensor = {};
  }
};

// Protects memory from clang 14, which does not destroy an argument by value that is made of `{}` in a member template:
// what is assigned to gives its block back itself.
TEST(Pool, AnAssignmentGivesBackWhatWasThere) {
  const std::size_t before = pool().live_bytes();
  Holder held{pool().allocate(100), Tensor<float>({10}, 1.0f)};
  EXPECT_EQ(pool().live_bytes(), before + round_up(100) + round_up(40));
  held.block = std::as_const(held).block, held.tensor = std::as_const(held).tensor;  // to themselves: nothing goes
  EXPECT_EQ(held.tensor[9], 1);
  EXPECT_EQ(pool().live_bytes(), before + round_up(100) + round_up(40));
  held.let_go();
  EXPECT_EQ(pool().live_bytes(), before);
}

#if !defined(REMAT_POOL_GUARD)  // which uses no block again
// Protects speed: a step that repeats takes nothing from the system, and little is wasted by rounding to classes.
TEST(Pool, ReusesBlocks) {
  const auto step = [] {
    std::vector<Storage> blocks;
    for (std::size_t i = 1; i < 200; ++i) blocks.push_back(pool().allocate(i * 997));
  };
  step();
  const std::size_t taken = pool().system_allocations(), cached = pool().cached_bytes();
  step();
  EXPECT_EQ(pool().system_allocations(), taken);
  EXPECT_EQ(pool().cached_bytes(), cached);
  pool().trim();
  EXPECT_EQ(pool().cached_bytes(), 0U);
  for (std::size_t bytes = 64; bytes < 100000; bytes += 64) {
    pool().trim();
    pool().allocate(bytes);
    ASSERT_GE(pool().cached_bytes(), bytes);
    ASSERT_LE(pool().cached_bytes(), bytes + bytes / 8);
  }
}
#endif

// Protects the memory that a run was promised: what waits to be used again is given back before more is taken.
TEST(Pool, HoldsNoMoreThanItMay) {
  pool().trim();
  const std::size_t before = pool().held_bytes();
  pool().set_held_limit(before + 3'000'000);
  for (std::size_t bytes = 100'000; bytes < 2'000'000; bytes += 100'000) {
    const Storage block = pool().allocate(bytes);
    EXPECT_GE(pool().held_bytes(), before + bytes);
    EXPECT_LE(pool().held_bytes(), before + 3'000'000);
  }
  const Storage large = pool().allocate(4'000'000);  // what is in use has no part in this limit
  EXPECT_GE(pool().held_bytes(), before + 4'000'000);
  pool().set_held_limit(0);  // more is held already: what is not used any more goes at once
  { const Storage block = pool().allocate(100'000); }
  { const Storage block = pool().allocate(100'000); }
  EXPECT_EQ(pool().cached_bytes(), 0U);
  pool().set_held_limit();
}

#if !defined(REMAT_ASAN)  // which keeps what is freed for a while
// Protects the same memory as the system counts it: a freed block leaves no hole in a heap, whatever lies behind it.
TEST(Pool, FreedBlocksAreTheSystems) {
  pool().trim();
  { const Storage first = pool().allocate(8'000'000); }  // malloc then takes blocks of up to this size from its heap
  pool().trim();
  pool().set_held_limit(0);
  for (const std::size_t bytes : {200'000UL, 1'000'000UL}) {
    std::vector<Storage> blocks(64'000'000 / bytes);
    for (Storage& block : blocks) {
      block = pool().allocate(bytes);
      std::memset(block->data(), 1, bytes);
    }
    const std::size_t before = machine::process_memory().anonymous;
    for (std::size_t i = 0; i < blocks.size(); i += 2) blocks[i] = {};
    EXPECT_LT(machine::process_memory().anonymous + 30'000'000, before) << bytes;
  }
  pool().set_held_limit();
}
#endif

// Protects "every byte is accounted": an account sees its blocks only, and outlives neither too long nor too short.
TEST(Pool, AccountsTheirOwn) {
  const Counted<Account> account(new Account);
  const Storage other = pool().allocate(1000);
  Storage a = pool().allocate(100, account), b = pool().allocate_virtual(200, account);
  EXPECT_EQ(account->live_bytes, 128U + 256U);
  EXPECT_EQ(b->data(), nullptr);
  a = {};
  EXPECT_EQ(account->live_bytes, 256U);
  EXPECT_EQ(account->peak_bytes, 384U);
  Storage last = pool().allocate(64, Counted<Account>(new Account));  // the block keeps its account alive
  EXPECT_EQ(last->account->live_bytes, 64U);
}

// Protects plans: what they allocate_virtual is charged to their account and costs no memory.
TEST(Pool, ImaginesWithoutMemory) {
  const Counted<Account> account(new Account);
  const std::size_t live = pool().live_bytes();
  const Storage vast = pool().allocate_virtual(std::size_t{1} << 50, account);
  EXPECT_EQ(account->live_bytes, std::size_t{1} << 50);
  EXPECT_EQ(pool().live_bytes(), live);
}

// Protects destructors: the death of a block is noted in room that its birth has made.
TEST(Pool, DeathsOfBlocksNeedNoMemory) {
  MemoryLog log;
  for (std::uint32_t number = 0; number < 100; ++number) log.add_birth({number, 64, {}});
  const MemoryEvent* const before = log.events().data();
  for (std::uint32_t number = 0; number < 100; ++number) log.add_death({number, 64, {}});
  EXPECT_EQ(log.events().data(), before);
  EXPECT_EQ(log.events().size(), 200U);
}

// Protects recovery from running out of memory: an allocation that fails leaves all counts as they were.
TEST(Pool, AFailedAllocationChangesNoCount) {
  for (int fails_at = 1; fails_at <= 3; ++fails_at) {
    const Counted<Account> account(new Account);
    pool().reset_peak();
    const std::size_t live = pool().live_bytes();
    pool().set_limit(live + static_cast<std::size_t>(fails_at - 1) * 128);
    std::vector<Storage> blocks;
    expect_error({"128 bytes asked", "the limit is", "set_limit"}, [&] {
      for (int i = 0; i < 3; ++i) blocks.push_back(pool().allocate(100, account));
    });
    pool().set_limit();
    const auto held = static_cast<std::size_t>(fails_at - 1) * 128;
    EXPECT_EQ(blocks.size() * 128, held);
    EXPECT_EQ(account->live_bytes, held);
    EXPECT_EQ(pool().live_bytes(), live + held);
    EXPECT_EQ(pool().peak_bytes(), live + held);
  }
}
#if !defined(REMAT_ASAN)  // whose allocator ends the program instead
TEST(Pool, SaysWhenMemoryIsOut) {
  const std::size_t live = pool().live_bytes();
  expect_error({"out of memory", "bytes asked"}, [] { pool().allocate(std::size_t{1} << 60); });
  EXPECT_EQ(pool().live_bytes(), live);
}
#endif

// Protects programs with threads of their own: counts come back to where they were.
TEST(Pool, ServesThreads) {
  const std::size_t live = pool().live_bytes();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([] {
      for (std::size_t i = 0; i < 2000; ++i) {
        const Storage block = pool().allocate(1 + i * 37 % 5000);
        block->data()[0] = std::byte{1};
        const Storage copy = block;
        EXPECT_EQ(copy.use_count(), 2);
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(pool().live_bytes(), live);
}

#if defined(REMAT_POOL_FILL)
// Protects the build that fills: no number can be made of what nobody wrote, whatever type it is read as.
TEST(Pool, GivesBlocksOfNaN) {
  for (int use = 0; use < 2; ++use) {  // new, and again
    const Tensor<float> floats({37});
    const Tensor<double> doubles({21});
    const Tensor<std::uint8_t> halves({64});
    for (const float v : floats) EXPECT_TRUE(std::isnan(v));
    for (const double v : doubles) EXPECT_TRUE(std::isnan(v));
    for (Index i = 0; i < 64; i += 2)  // a bfloat16 is the upper half of a float
      EXPECT_TRUE(std::isnan(std::bit_cast<float>(static_cast<std::uint32_t>(halves[i] << 16 | halves[i + 1] << 24))));
    for (const Storage& each : {floats.any().storage, doubles.any().storage, halves.any().storage})
      std::memset(each->data(), 0, each->bytes);
  }
}
#endif
#if defined(REMAT_POOL_GUARD)
// Protects the build that guards: a byte behind a block, and one of a block that has gone, cannot be touched.
TEST(PoolDeathTest, WhatLiesBehindABlockCannotBeTouched) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  for (const std::size_t bytes : {64UL, 4096UL, 5000UL, 5UL << 20}) {
    Storage block = pool().allocate(bytes);
    volatile std::byte* const data = block->data();
    data[round_up(bytes) - 1] = std::byte{1};
    EXPECT_DEATH(data[round_up(bytes)] = std::byte{1}, "");
    block = {};
    EXPECT_DEATH(data[0] = std::byte{1}, "");
  }
}
#endif

#if defined(REMAT_ASAN)
// Protects the sanitizer's eyes: a freed block, cached for reuse, is still poison to touch.
TEST(PoolDeathTest, FreedBlocksArePoisoned) {
  const auto read_freed = [] {
    Storage block = pool().allocate(1000);
    volatile std::byte* data = block->data();
    block = {};
    return data[10];
  };
  EXPECT_DEATH(read_freed(), "use-after-poison");
  const auto read_behind = [] {
    pool().trim();
    pool().allocate(8192);                             // the whole block is poisoned when it is freed, and
    const Storage block = pool().allocate(8192 - 64);  // unpoisoned only as far as it is asked for
    volatile std::byte* data = block->data();
    return data[8192 - 64];
  };
  EXPECT_DEATH(read_behind(), "use-after-poison|heap-buffer-overflow");
}
#endif

}  // namespace
