// Checks that a tape makes on request: is a replay bitwise what was recorded, and where did the first NaN come from?
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <remat/autodiff/program.hpp>

namespace remat::inline REMAT_ABI::detail {

/// `REMAT_FIND_NAN` in the environment, set to anything but 0.
inline bool find_nan_by_environment() {
  const char* value = std::getenv("REMAT_FIND_NAN");
  return value != nullptr && std::strcmp(value, "0") != 0;
}

inline std::string in_layer(const Program& program, std::int32_t path) {
  const std::string& where = program.paths[static_cast<std::size_t>(path)];
  return where.empty() ? "" : " in " + where;
}

/// By bit pattern, since -ffast-math deletes std::isnan.
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
inline void diagnose_forward(Program& program, const Op& op, std::int32_t path, SlotId first, int count,
                             bool is_replay) {
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

/// After a backward.
inline void diagnose_gradient(const Program& program, const Op& op, std::int32_t path, DType dtype,
                              const void* gradient, Index count) {
  require(!program.find_nan || gradient == nullptr || !has_nan(dtype, static_cast<const std::byte*>(gradient), count),
          "nan: ", op.name(), in_layer(program, path), " gave the first NaN, in backward");
}

}  // namespace remat::inline REMAT_ABI::detail
