// Groups over MPI, where CMake's target remat::distributed has found it; else a group of one.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <remat/distributed/communication_thread.hpp>
#include <remat/distributed/group.hpp>
#include <span>
#include <string>
#include <thread>
#include <utility>

#if defined(REMAT_DISTRIBUTED_MPI)
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#endif

namespace remat { inline namespace REMAT_ABI { namespace distributed {
#if defined(REMAT_DISTRIBUTED_MPI)
namespace detail {

/// MPI from its beginning to its end, which comes with the last group. An exception that ends it ends all processes:
/// the others would wait for this one.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv) {
    int is_begun = 0, is_over = 0, level = 0;
    MPI_Initialized(&is_begun);
    MPI_Finalized(&is_over);
    require(!is_begun && !is_over, "distributed: MPI has been begun in this process already; call init once");
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &level);
    require(level >= MPI_THREAD_SERIALIZED, "distributed: this MPI gives threads level ", level,
            ", where MPI_THREAD_SERIALIZED is needed");
  }
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession() {
    int is_over = 0;
    MPI_Finalized(&is_over);
    if (is_over) return;
    if (std::uncaught_exceptions() > 0) {
      int rank = 0;
      MPI_Comm_rank(MPI_COMM_WORLD, &rank);
      std::fprintf(stderr, "remat: rank %d ends by an exception; all ranks are stopped\n", rank);
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Finalize();
  }

  /// A call of MPI, which may be made by any thread, but by one at a time.
  class Call {
   public:
    explicit Call(MpiSession& session) : is_busy_(session.is_busy_) {
      require(!is_busy_.exchange(true),
              "distributed: two threads of this process transfer at one time, which MPI does "
              "not allow here; a GradientSum with overlap leaves no other transfers between in_backward and finish");
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call() { is_busy_ = false; }

   private:
    std::atomic<bool>& is_busy_;
  };

 private:
  std::atomic<bool> is_busy_{false};
};

/// A communicator of MPI. A failure of MPI itself ends all processes with MPI's message, its default.
class MpiTransport final : public Transport {
 public:
  MpiTransport(std::shared_ptr<MpiSession> session, MPI_Comm comm) : session_(std::move(session)), comm_(comm) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  MpiTransport(const MpiTransport&) = delete;
  MpiTransport& operator=(const MpiTransport&) = delete;
  ~MpiTransport() override {
    if (comm_ != MPI_COMM_WORLD && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void send(std::span<const std::byte> bytes, int to) override {
    const MpiSession::Call call(*session_);
    MPI_Send(bytes.data(), count(bytes), MPI_BYTE, to, 0, comm_);
  }
  void receive(std::span<std::byte> bytes, int from) override {
    const MpiSession::Call call(*session_);
    MPI_Recv(bytes.data(), count(bytes), MPI_BYTE, from, 0, comm_, MPI_STATUS_IGNORE);
  }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    const MpiSession::Call call(*session_);
    if (out.empty()) to = MPI_PROC_NULL;
    if (in.empty()) from = MPI_PROC_NULL;
    if (!waits_asleep()) {
      MPI_Sendrecv(out.data(), count(out), MPI_BYTE, to, 0, in.data(), count(in), MPI_BYTE, from, 0, comm_,
                   MPI_STATUS_IGNORE);
      return;
    }
    std::array<MPI_Request, 2> both{};
    MPI_Irecv(in.data(), count(in), MPI_BYTE, from, 0, comm_, &both[0]);
    MPI_Isend(out.data(), count(out), MPI_BYTE, to, 0, comm_, &both[1]);
    for (int is_done = 0; MPI_Testall(2, both.data(), &is_done, MPI_STATUSES_IGNORE), is_done == 0;)
      std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  void broadcast(std::span<std::byte> bytes, int from) override {
    const MpiSession::Call call(*session_);
    MPI_Bcast(bytes.data(), count(bytes), MPI_BYTE, from, comm_);
  }
  std::shared_ptr<Transport> split(int color) override {
    const MpiSession::Call call(*session_);
    MPI_Comm part = MPI_COMM_NULL;
    MPI_Comm_split(comm_, color, rank_, &part);
    return std::make_shared<MpiTransport>(session_, part);
  }
  std::shared_ptr<Transport> on_one_machine() override {
    const MpiSession::Call call(*session_);
    MPI_Comm part = MPI_COMM_NULL;
    MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &part);
    return std::make_shared<MpiTransport>(session_, part);
  }
  [[noreturn]] void stop_all(int code) override {
    MPI_Abort(MPI_COMM_WORLD, code);
    std::abort();
  }

 private:
  static int count(std::span<const std::byte> bytes) { return static_cast<int>(bytes.size()); }

  std::shared_ptr<MpiSession> session_;  // ends after the last communicator
  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
};

}  // namespace detail
#endif

// Two settings in one program must not share one merged inline function.
#if defined(REMAT_DISTRIBUTED_MPI)
inline namespace mpi {
#else
inline namespace alone {
#endif

/// The group of all processes that `mpirun` has started, or one by itself. Once in a process; MPI ends when the last
/// copy of the group is gone, after all tapes and optimizers that use it. Takes MPI's own flags out of `argv`. Without
/// MPI, in programs that do not link remat::distributed, a group of one.
inline Group init([[maybe_unused]] int& argc, [[maybe_unused]] char**& argv, const GroupOptions& options = {}) {
#if defined(REMAT_DISTRIBUTED_MPI)
  static_cast<void>(detail::checked(options));  // refused before there are others to wait
  auto session = std::make_shared<detail::MpiSession>(argc, argv);
  return Group(std::make_shared<detail::MpiTransport>(std::move(session), MPI_COMM_WORLD), options);
#else
  return Group(std::make_shared<detail::OneProcess>(), options);
#endif
}

/// Ends all processes of the group with a message that names this rank. What went wrong on all ranks alike is told by
/// rank 0 alone: others wait for it for a second.
[[noreturn]] inline void stop_all(const Group& group, const char* message, int code = 1) {
  if (!group.is_first()) std::this_thread::sleep_for(std::chrono::seconds(1));
  std::fflush(stdout);
  std::fprintf(stderr, "rank %d of %d: %s\n", group.rank(), group.size(), message);
  std::fflush(stderr);
  group.transport().stop_all(code);
  std::abort();  // g++ 12 does not see that it never returns
}

/// `main` of a program of several processes: begins MPI, runs `body(group)` and returns what it returns. Where it
/// throws, or returns another number than 0 on one rank, no other waits for it: its message is printed with its rank,
/// and all end.
template <class Body>
int run(int& argc, char**& argv, Body&& body, const GroupOptions& options = {}) {
  Group group;
  int code = 1;
  try {
    group = init(argc, argv, options);
    code = body(std::as_const(group));
  } catch (const std::exception& error) {
    stop_all(group, error.what());
  } catch (...) {
    stop_all(group, "an exception that is no std::exception");
  }
  if (code != 0 && group.size() > 1) stop_all(group, ("ends with " + std::to_string(code)).c_str(), code);
  return code;
}

}  // namespace mpi or alone
}}}  // namespace remat::distributed
