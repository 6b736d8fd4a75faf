// The rates of this machine, measured once and kept in the user's cache folder.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <optional>
#include <remat/core/machine_cache.hpp>
#include <remat/core/offload_file.hpp>
#include <remat/core/tensor.hpp>
#include <remat/kernels/activations.hpp>
#include <remat/kernels/attention.hpp>
#include <remat/kernels/linear.hpp>
#include <remat/plan/cost_model.hpp>
#include <sstream>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// The shortest of some runs, in seconds: others only make a run longer.
template <class Run>
double shortest(int runs, Run&& run) {
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

/// Seconds of a flop of a layer's products: forward, and both that backward makes of it.
template <class = void>
double seconds_per_flop() {
  constexpr Index rows = 1024, inputs = 512, outputs = 512;
  const Tensor<float> x({rows, inputs}, 0.5F), w({inputs, outputs}, 0.25F), dy({rows, outputs}, 0.125F);
  Tensor<float> y({rows, outputs}, 0.0F), dx({rows, inputs}, 0.0F), dw({inputs, outputs}, 0.0F);
  const kernels::LinearProducts<float> products{rows, inputs, outputs, false};
  const double seconds = shortest(6, [&] {
    products.forward(x.data(), w.data(), nullptr, y.write().data());
    products.input_gradient(dy.data(), w.data(), false, dx.write().data());
    products.weight_gradient(x.data(), dy.data(), false, dw.write().data());
  });
  return seconds / (3.0 * 2.0 * rows * inputs * outputs);
}

/// Seconds of a flop of causal attention, forward and backward.
template <class = void>
double seconds_per_attention_flop() {
  constexpr Index batch = 2, length = 256, heads = 4, dims = 64, row = heads * dims;
  kernels::AttentionProblem<float> p{.batch = batch, .query_length = length, .key_length = length, .heads = heads};
  p.kv_heads = heads, p.head_dims = dims, p.scale = 0.125, p.causal = true;
  p.q_token = p.k_token = p.v_token = p.out_token = row;
  p.q_batch = p.k_batch = p.v_batch = p.out_batch = length * row;
  const Tensor<float> q({batch, length, row}, 0.5F), k({batch, length, row}, 0.25F), v({batch, length, row}, 0.125F);
  Tensor<float> out({batch, length, row}, 0.0F), sums({batch, heads, length}, 0.0F);
  Tensor<float> dq = out, dk = out, dv = out;
  const auto scratch = pool().allocate(std::max(attention_forward_scratch(p), attention_backward_scratch(p)));
  const kernels::AttentionGradients<float> to{.q = dq.write().data(), .k = dk.write().data(), .v = dv.write().data()};
  float *const o = out.write().data(), *const s = sums.write().data();
  const double seconds = shortest(4, [&] {
    attention_forward(p, q.data(), k.data(), v.data(), o, s, scratch->data());
    attention_backward(p, q.data(), k.data(), v.data(), o, s, v.data(), to, scratch->data());
  });
  constexpr double visible = 0.5 * length * (length + 1);
  return seconds / ((2 + 5) * 2.0 * batch * heads * visible * dims);
}

/// Seconds of a byte read or written by what lies between products: as many that are added as go through an
/// exponential.
template <class = void>
double seconds_per_byte() {
  constexpr Index count = Index{1} << 21;  // 24 MiB in all: what a layer's activations are like
  const Tensor<float> a({count}, 1.0F), b({count}, 2.0F);
  Tensor<float> c({count}, 0.0F);
  const float *const x = a.data(), *const y = b.data();
  float* const z = c.write().data();
  const double seconds = shortest(5, [&] {
    parallel_for(count, 16384, [=](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) z[i] = x[i] + 0.5F * y[i];
    });
    parallel_for(count, 16384, [=](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) z[i] = y[i] * kernels::GeluTanh::derivative(x[i]);
    });
  });
  return seconds / (2 * 12.0 * static_cast<double>(count));
}

/// Seconds of a byte that is written to the system's folder for temporary files, or read from there. A short
/// measurement sees the system's cache of files; steps that write much wait for its disk, so that no more than 500 MB/s
/// are believed. Where no file can be made there: so many that no plan offloads anything.
template <class = void>
double seconds_per_offloaded_byte() {
  constexpr Index count = Index{1} << 21;  // floats, 8 MiB: a few values of a layer
  const Tensor<float> from({count}, 1.0F);
  Tensor<float> to({count}, 0.0F);
  constexpr std::size_t bytes = count * sizeof(float);
  try {
    OffloadFile file({}, "TMPDIR");
    const std::size_t at = file.reserve(bytes);
    const double seconds = shortest(3, [&] {
      file.write(reinterpret_cast<const std::byte*>(from.data()), bytes, at);
      file.read(reinterpret_cast<std::byte*>(to.write().data()), bytes, at);
    });
    return std::max(seconds / (2.0 * static_cast<double>(bytes)), 1 / 5e8);
  } catch (const Error&) {
    return 1;
  }
}

/// The rates in a kept text; nothing for a damaged one, which must not make plans absurd.
template <class = void>
std::optional<CostModel> parsed_rates(const std::string& text) {
  std::istringstream in(text);
  CostModel read;
  if (in >> read.flops_per_second >> read.bytes_per_second >> read.batched_factor >> read.offload_bytes_per_second &&
      read.flops_per_second > 1e6 && read.flops_per_second < 1e18 && read.bytes_per_second > 1e6 &&
      read.bytes_per_second < 1e16 && read.batched_factor > 0.1 && read.batched_factor < 100 &&
      read.offload_bytes_per_second > 0.1 && read.offload_bytes_per_second < 1e16)
    return read;
  return std::nullopt;
}

template <class = void>
std::string text_of_rates(const CostModel& model) {
  std::ostringstream text;
  text.precision(17);
  text << model.flops_per_second << ' ' << model.bytes_per_second << ' ' << model.batched_factor << ' '
       << model.offload_bytes_per_second;
  return text.str();
}

/// Rates measured while others compute are better than none, but not to be kept.
template <class = void>
bool is_machine_quiet() {
  double load = 0;
  return getloadavg(&load, 1) != 1 || load <= omp_get_num_procs();
}

/// From the cache in `folder`, or measured and put there; an empty folder: always measured.
template <class = void>
CostModel calibrated(const std::filesystem::path& folder, bool may_write = true) {
  const std::string machine = machine_line("rates-3; " + std::string(kernels::gemm_backend()));
  return kept_or_measured(
      folder, machine, [](const std::string& text) { return parsed_rates(text); }, [] { return CostModel::measured(); },
      [](const CostModel& model) { return text_of_rates(model); }, may_write);
}

}}}  // namespace remat::detail

namespace remat { inline namespace REMAT_ABI {

template <class>
CostModel CostModel::measured() {
  const double flop = detail::seconds_per_flop();
  CostModel model;
  model.flops_per_second = 1 / flop;
  model.bytes_per_second = 1 / detail::seconds_per_byte();
  model.batched_factor = detail::seconds_per_attention_flop() / flop;
  model.offload_bytes_per_second = 1 / detail::seconds_per_offloaded_byte();
  return model;
}

template <class>
const CostModel& CostModel::of_this_machine() {
  static const CostModel model = detail::calibrated(detail::cache_folder(), detail::is_machine_quiet());
  return model;
}

}}  // namespace remat
