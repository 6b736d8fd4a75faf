// Products of bfloat16 by oneDNN, on processors that multiply them: AVX512-BF16 or AMX. Its matmul primitive is made
// once for each thread and shape.
#pragma once

#include <oneapi/dnnl/dnnl.h>

#include <array>
#include <map>
#include <memory>
#include <remat/core/dtype.hpp>
#include <remat/core/pool.hpp>
#include <remat/kernels/gemm/shape.hpp>
#include <type_traits>
#include <utility>

namespace remat::inline REMAT_ABI::kernels::onednn {

/// False where oneDNN would only emulate them, slower than float products are.
inline bool multiplies_bfloat16() {
  static const int isa = static_cast<int>(dnnl_get_effective_cpu_isa());
  constexpr int needed = static_cast<int>(dnnl_cpu_isa_avx512_core_bf16);
  return (isa & needed) == needed;
}

namespace detail {

inline void check(dnnl_status_t status, const Gemm& shape) {
  require(status == dnnl_success, "gemm: oneDNN failed with status ", status, " on a bfloat16 product ", shape.m, " x ",
          shape.n, " x ", shape.k);
}

/// Owns one object of the C interface.
template <class Handle, dnnl_status_t (*destroy)(Handle)>
struct Destroyer {
  using pointer = Handle;
  void operator()(Handle handle) const { destroy(handle); }
};
template <class Handle, dnnl_status_t (*destroy)(Handle)>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroyer<Handle, destroy>>;

using Memory = Owned<dnnl_memory_t, dnnl_memory_destroy>;
using PrimitiveDesc = Owned<dnnl_primitive_desc_t, dnnl_primitive_desc_destroy>;

inline dnnl_engine_t engine() {
  static const dnnl_engine_t cpu = [] {
    dnnl_engine_t made = nullptr;
    check(dnnl_engine_create(&made, dnnl_cpu, 0), {});
    return made;
  }();
  return cpu;
}

/// A matrix whose transpose is stored when `trans`.
class Layout {
 public:
  Layout(Trans trans, Index rows, Index columns, Index leading, dnnl_data_type_t type, const Gemm& shape) {
    const dnnl_dims_t dims = {rows, columns};
    const dnnl_dims_t strides = {trans == Trans::no ? leading : 1, trans == Trans::no ? 1 : leading};
#if DNNL_VERSION_MAJOR >= 3
    dnnl_memory_desc_t made = nullptr;
    check(dnnl_memory_desc_create_with_strides(&made, 2, dims, type, strides), shape);
    desc_.reset(made);
#else
    check(dnnl_memory_desc_init_by_strides(&desc_, 2, dims, type, strides), shape);
#endif
  }
#if DNNL_VERSION_MAJOR >= 3
  const_dnnl_memory_desc_t get() const { return desc_.get(); }

 private:
  Owned<dnnl_memory_desc_t, dnnl_memory_desc_destroy> desc_;
#else
  const dnnl_memory_desc_t* get() const { return &desc_; }

 private:
  dnnl_memory_desc_t desc_;
#endif
};

class Matmul {
 public:
  explicit Matmul(const Gemm& shape) : shape_(shape) {
    const Layout a(shape.a, shape.m, shape.k, shape.lda, dnnl_bf16, shape);
    const Layout b(shape.b, shape.k, shape.n, shape.ldb, dnnl_bf16, shape);
    const Layout c(Trans::no, shape.m, shape.n, shape.ldc, dnnl_f32, shape);
    const PrimitiveDesc desc = describe(a, b, c);
    dnnl_primitive_t primitive = nullptr;
    check(dnnl_primitive_create(&primitive, desc.get()), shape);
    primitive_.reset(primitive);
    const auto scratch = dnnl_primitive_desc_query_md(desc.get(), dnnl_query_scratchpad_md, 0);
    scratch_bytes_ = dnnl_memory_desc_get_size(scratch);
    memories_ = {memory(a.get()), memory(b.get()), memory(c.get()), memory(scratch)};
    dnnl_stream_t stream = nullptr;
    check(dnnl_stream_create(&stream, engine(), dnnl_stream_default_flags), shape);
    stream_.reset(stream);
  }
  void operator()(const bfloat16* a, const bfloat16* b, float* c) const {
    const Storage scratch = scratch_bytes_ > 0 ? pool().allocate(scratch_bytes_) : Storage();
    void* const data[] = {const_cast<bfloat16*>(a), const_cast<bfloat16*>(b), c, scratch ? scratch->data() : nullptr};
    constexpr int roles[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    dnnl_exec_arg_t arguments[4];
    for (std::size_t i = 0; i < 4; ++i) {
      check(dnnl_memory_set_data_handle(memories_[i].get(), data[i]), shape_);
      arguments[i] = {roles[i], memories_[i].get()};
    }
    check(dnnl_primitive_execute(primitive_.get(), stream_.get(), 4, arguments), shape_);
  }

 private:
  PrimitiveDesc describe(const Layout& a, const Layout& b, const Layout& c) const {
    dnnl_primitive_attr_t attributes = nullptr;
    check(dnnl_primitive_attr_create(&attributes), shape_);
    const Owned<dnnl_primitive_attr_t, dnnl_primitive_attr_destroy> owned_attributes(attributes);
    check(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user), shape_);
    dnnl_post_ops_t after = nullptr;
    check(dnnl_post_ops_create(&after), shape_);
    const Owned<dnnl_post_ops_t, dnnl_post_ops_destroy> owned_after(after);
    dnnl_primitive_desc_t made = nullptr;
#if DNNL_VERSION_MAJOR >= 3
    if (shape_.accumulate) check(dnnl_post_ops_append_sum(after, 1, 0, dnnl_data_type_undef), shape_);
    check(dnnl_primitive_attr_set_post_ops(attributes, after), shape_);
    check(dnnl_matmul_primitive_desc_create(&made, engine(), a.get(), b.get(), nullptr, c.get(), attributes), shape_);
#else
    if (shape_.accumulate) check(dnnl_post_ops_append_sum(after, 1), shape_);
    check(dnnl_primitive_attr_set_post_ops(attributes, after), shape_);
    dnnl_matmul_desc_t matmul;
    check(dnnl_matmul_desc_init(&matmul, a.get(), b.get(), nullptr, c.get()), shape_);
    check(dnnl_primitive_desc_create(&made, &matmul, attributes, engine(), nullptr), shape_);
#endif
    return PrimitiveDesc(made);
  }
  template <class Desc>
  Memory memory(Desc desc) const {
    dnnl_memory_t made = nullptr;
    check(dnnl_memory_create(&made, desc, engine(), DNNL_MEMORY_NONE), shape_);
    return Memory(made);
  }

  Gemm shape_;
  std::size_t scratch_bytes_ = 0;
  std::array<Memory, 4> memories_;  // A, B, C, scratch
  Owned<dnnl_primitive_t, dnnl_primitive_destroy> primitive_;
  Owned<dnnl_stream_t, dnnl_stream_destroy> stream_;
};

}  // namespace detail

/// One product with k > 0 in the calling thread (its OpenMP thread limit is 1), all leading dimensions given.
inline void product(const Gemm& shape, const bfloat16* a, const bfloat16* b, float* c) {
  using Key = std::array<Index, 9>;
  static thread_local std::map<Key, detail::Matmul> made;
  const Key key = {shape.m,
                   shape.n,
                   shape.k,
                   shape.lda,
                   shape.ldb,
                   shape.ldc,
                   shape.accumulate,
                   shape.a == Trans::yes,
                   shape.b == Trans::yes};
  auto found = made.find(key);
  if (found == made.end()) {
    if (made.size() >= 1024) made.clear();  // of shapes that change for ever
    found = made.emplace(key, shape).first;
  }
  found->second(a, b, c);
}

}  // namespace remat::inline REMAT_ABI::kernels::onednn
