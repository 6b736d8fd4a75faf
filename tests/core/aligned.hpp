// Memory aligned as that of tensors is.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace remat_test {

/// Tensors are aligned so, and results of libraries may depend on it in the last bit.
template <class T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, std::size_t) { ::operator delete (p, std::align_val_t{64}); }
  friend bool operator==(const Aligned&, const Aligned&) { return true; }
};
template <class T>
using AlignedVector = std::vector<T, Aligned<T>>;

}  // namespace remat_test
