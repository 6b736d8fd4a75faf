// Tests that all ranks of an mpirun run together; a rank that fails one makes the whole fail.
#include <cstdio>
#include <string>

#include "ranks.hpp"

namespace {

/// Failures are told by every rank, all else by the first.
class Quiet : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed())
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", remat_test::world().rank(),
                   result.file_name() != nullptr ? result.file_name() : "", result.line_number(), result.summary());
  }
};

// In this file, which alone is compiled with MPI.
TEST(Ranks, BeginMpiOnce) {
  int argc = 0;
  char** argv = nullptr;
  EXPECT_NE(remat_test::message_of([&] { remat::distributed::init(argc, argv); }).find("call init once"),
            std::string::npos);
}

}  // namespace

remat::distributed::Group& remat_test::world() {
  static remat::distributed::Group group;
  return group;
}

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return remat::distributed::run(argc, argv, [](const remat::distributed::Group& group) {
    remat_test::world() = group;
    if (!group.is_first()) {
      auto& listeners = testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
      listeners.Append(new Quiet);
    }
    const int failed = RUN_ALL_TESTS();
    const bool is_any = group.sum(failed) > 0;
    remat_test::world() = {};
    return is_any ? 1 : 0;
  });
}
