// oneDNN's matmul primitive: made once for each thread and kind of product, then only given new data. Its C header: the
// C++ one takes a second to compile and adds nothing here.
#pragma once

#include <oneapi/dnnl/dnnl.h>

#include <array>
#include <map>
#include <memory>
#include <remat/core/pool.hpp>
#include <remat/kernels/gemm/shape.hpp>
#include <type_traits>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace kernels::onednn {

/// All that a primitive is made for. `is_bfloat16`: A and B are bfloat16, and so is C if it is `rounded`.
struct MatmulKind {
  Gemm shape;
  bool is_bfloat16 = false, rounded = false, bias = false;

  auto key() const {
    const bool flags[] = {shape.a == Trans::yes, shape.b == Trans::yes, shape.accumulate, is_bfloat16, rounded, bias};
    Index bits = 0;
    for (const bool flag : flags) bits = 2 * bits + flag;
    return std::array{shape.m, shape.n, shape.k, shape.lda, shape.ldb, shape.ldc, bits};
  }
};

namespace detail {

inline void check(dnnl_status_t status, const Gemm& shape) {
  require(status == dnnl_success, "gemm: oneDNN failed with status ", status, " on a product ", shape.m, " x ", shape.n,
          " x ", shape.k);
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
  Layout(Trans trans, Index rows, Index columns, Index leading, bool is_bfloat16, const Gemm& shape) {
    const dnnl_data_type_t type = is_bfloat16 ? dnnl_bf16 : dnnl_f32;
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
  explicit Matmul(const MatmulKind& kind) : shape_(kind.shape) {
    const Layout a(shape_.a, shape_.m, shape_.k, shape_.lda, kind.is_bfloat16, shape_);
    const Layout b(shape_.b, shape_.k, shape_.n, shape_.ldb, kind.is_bfloat16, shape_);
    const Layout c(Trans::no, shape_.m, shape_.n, shape_.ldc, kind.rounded, shape_);
    const Layout bias(Trans::no, 1, shape_.n, shape_.n, false, shape_);
    const PrimitiveDesc desc = describe(a.get(), b.get(), kind.bias ? bias.get() : nullptr, c.get());
    dnnl_primitive_t primitive = nullptr;
    check(dnnl_primitive_create(&primitive, desc.get()), shape_);
    primitive_.reset(primitive);
    const auto scratch = dnnl_primitive_desc_query_md(desc.get(), dnnl_query_scratchpad_md, 0);
    scratch_bytes_ = dnnl_memory_desc_get_size(scratch);
    memories_ = {memory(a.get()), memory(b.get()), memory(c.get()), memory(scratch), memory(bias.get())};
    dnnl_stream_t stream = nullptr;
    check(dnnl_stream_create(&stream, engine(), dnnl_stream_default_flags), shape_);
    stream_.reset(stream);
  }
  /// Of the types that the kind says; `bias` is null if it has none.
  void operator()(const void* a, const void* b, const float* bias, void* c) const {
    const Storage scratch = scratch_bytes_ > 0 ? pool().allocate(scratch_bytes_) : Storage();
    const void* const data[] = {a, b, c, scratch ? scratch->data() : nullptr, bias};
    constexpr int roles[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD, DNNL_ARG_BIAS};
    dnnl_exec_arg_t arguments[5];
    const std::size_t count = bias == nullptr ? 4 : 5;
    for (std::size_t i = 0; i < count; ++i) {
      check(dnnl_memory_set_data_handle(memories_[i].get(), const_cast<void*>(data[i])), shape_);
      arguments[i] = {roles[i], memories_[i].get()};
    }
    check(dnnl_primitive_execute(primitive_.get(), stream_.get(), static_cast<int>(count), arguments), shape_);
  }

 private:
  template <class Desc>
  PrimitiveDesc describe(Desc a, Desc b, Desc bias, Desc c) const {
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
    check(dnnl_matmul_primitive_desc_create(&made, engine(), a, b, bias, c, attributes), shape_);
#else
    if (shape_.accumulate) check(dnnl_post_ops_append_sum(after, 1), shape_);
    check(dnnl_primitive_attr_set_post_ops(attributes, after), shape_);
    dnnl_matmul_desc_t matmul;
    check(dnnl_matmul_desc_init(&matmul, a, b, bias, c), shape_);
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
  std::array<Memory, 5> memories_;  // A, B, C, scratch, bias
  Owned<dnnl_primitive_t, dnnl_primitive_destroy> primitive_;
  Owned<dnnl_stream_t, dnnl_stream_destroy> stream_;
};

}  // namespace detail

/// The calling thread's primitive for products of this kind.
inline const detail::Matmul& matmul(const MatmulKind& kind) {
  static thread_local std::map<decltype(kind.key()), detail::Matmul> made;
  const auto key = kind.key();
  auto found = made.find(key);
  if (found == made.end()) {
    if (made.size() >= 1024) made.clear();  // of shapes that change for ever
    found = made.emplace(key, kind).first;
  }
  return found->second;
}

}}}  // namespace remat::kernels::onednn
