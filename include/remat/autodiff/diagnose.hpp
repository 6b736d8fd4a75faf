// Is a replay bitwise what was recorded, and where did the first NaN come from? A tape checks this on request, and the
// former of the first results of each op in any case.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <remat/autodiff/program.hpp>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// `REMAT_FIND_NAN` in the environment, set to anything but 0.
inline bool find_nan_by_environment() {
  const char* value = std::getenv("REMAT_FIND_NAN");
  return value != nullptr && std::strcmp(value, "0") != 0;
}

inline std::string in_layer(const Program& program, std::int32_t path) {
  const std::string& where = program.paths[static_cast<std::size_t>(path)];
  return where.empty() ? "" : " in " + where;
}

/// By bit pattern: the same for every type, and whatever the compiler takes to be finite.
template <class Bits>
bool has_nan(const std::byte* data, Index count, Bits exponent) {
  for (Index i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, data + static_cast<std::size_t>(i) * sizeof bits, sizeof bits);
    if ((bits & static_cast<Bits>(~Bits{0} >> 1)) > exponent) return true;
  }
  return false;
}
inline bool has_nan(DType dtype, const std::byte* data, Index count) {
  if (dtype == DType::float32) return has_nan<std::uint32_t>(data, count, 0x7f800000U);
  if (dtype == DType::float64) return has_nan<std::uint64_t>(data, count, 0x7ff0000000000000ULL);
  if (dtype == DType::bfloat16) return has_nan<std::uint16_t>(data, count, 0x7f80U);
  return false;
}

/// A 64-bit print of the bytes.
inline std::uint64_t print_of(const std::byte* data, std::size_t bytes) {
  std::uint64_t hash = 0x9E3779B97F4A7C15ULL ^ bytes;
  for (std::size_t i = 0; i < bytes; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + i, std::min<std::size_t>(8, bytes - i));
    hash = (hash ^ word) * 0xFF51AFD7ED558CCDULL;
    hash ^= hash >> 32;
  }
  return hash;
}

/// After a forward, recorded or replayed.
template <class = void>
void diagnose_forward(Program& program, const Op& op, std::int32_t path, SlotId first, int count, bool is_replay) {
  if (!(program.verify || program.find_nan) || !program.computes()) return;
  for (SlotId id = first; id < first + count; ++id) {
    const Spec& spec = program.slot(id).spec;
    const std::byte* data = program.data(id, 0);
    require(!program.find_nan || !has_nan(spec.dtype, data, spec.shape.size()), "nan: ", op.name(),
            in_layer(program, path), " gave the first NaN, in forward; its operands had none");
    if (!program.verify) continue;
    if (program.prints.size() <= static_cast<std::size_t>(id)) program.prints.resize(static_cast<std::size_t>(id) + 1);
    std::uint64_t& recorded = program.prints[static_cast<std::size_t>(id)];
    const std::uint64_t now = print_of(data, spec.bytes());
    require(!is_replay || recorded == now, "verify: a replay of ", op.name(), in_layer(program, path),
            " gave other bits than were recorded; the op is no pure function of its operands and attributes");
    recorded = now;
  }
}

/// How many more results of the op of this name are to be compared with a replay in this process: a few, since an op
/// that is not pure shows it at once, and later steps must pay nothing. Null when there are too many ops.
template <class = void>
std::atomic<int>* left_to_watch(const char* op) {
  struct Entry {
    std::atomic<const char*> op{nullptr};
    std::atomic<int> left{8};
  };
  static constinit std::array<Entry, 256> entries{};
  std::size_t at = (reinterpret_cast<std::uintptr_t>(op) * 0x9E3779B97F4A7C15ULL) >> 56;
  for (int probe = 0; probe < 8; ++probe, at = (at + 1) % entries.size()) {
    const char* known = entries[at].op.load(std::memory_order_acquire);
    if (known == nullptr && entries[at].op.compare_exchange_strong(known, op)) known = op;
    if (known == op) return &entries[at].left;
  }
  return nullptr;
}

/// Of the first 16 KiB of each result.
template <class = void>
std::uint64_t print_of_results(Program& program, SlotId first, int count) {
  std::uint64_t print = 0;
  for (SlotId id = first; id < first + count; ++id)
    print = print * 31 + print_of(program.data(id, 0), std::min(program.slot(id).spec.bytes(), std::size_t{16384}));
  return print;
}

/// After a forward was recorded: what a region may replay is printed, the first few times for each op.
template <class = void>
void watch_forward(Program& program, const Op& op, SlotId first, int count) {
  if (program.mode != Mode::train || program.open_regions.empty() || program.verify || !op.replayable()) return;
  std::atomic<int>* left = left_to_watch(op.name());
  if (left == nullptr || left->load(std::memory_order_relaxed) <= 0 || program.ruling_region() < 0) return;
  left->fetch_sub(1, std::memory_order_relaxed);
  program.watched.emplace_back(first, print_of_results(program, first, count));
}
/// After a replay. Behind a value that was kept in fewer bits, replays give other bits by right.
template <class = void>
void check_watched(Program& program, const Op& op, std::int32_t path, SlotId first, int count) {
  if (program.watched.empty() || program.has_packed) return;
  for (const auto& [slot, print] : program.watched) {
    if (slot != first) continue;
    require(
        print == print_of_results(program, first, count), "replay: ", op.name(), in_layer(program, path),
        " gave other bits than were recorded, so gradients would be wrong; the op must be a pure function of its ",
        "operands and attributes (random numbers come from tape.next_random()), or say that it is not replayable()");
    left_to_watch(op.name())->store(0, std::memory_order_relaxed);
    return;
  }
}

/// After a backward.
template <class = void>
void diagnose_gradient(const Program& program, const Op& op, std::int32_t path, DType dtype, const void* gradient,
                       Index count) {
  require(!program.find_nan || gradient == nullptr || !has_nan(dtype, static_cast<const std::byte*>(gradient), count),
          "nan: ", op.name(), in_layer(program, path), " gave the first NaN, in backward");
}

}}}  // namespace remat::detail
