// Rotary position embedding (Su et al. 2021) as an op of its own, for positions that are told token by token, and for
// keys that are turned once and then kept.
#pragma once

#include <remat/autodiff/tape.hpp>
#include <remat/kernels/attention/rotary.hpp>
#include <remat/ops/attention_options.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI {

/// How `rotary` turns vectors.
struct RotaryOptions {
  double base = 10000;             // pair j of P turns by position * base^(-j / P)
  Index dims = 0;                  // of each head, from its first; even; 0: all. Dimension j turns with j + dims / 2
  RotaryScalingOptions scaling{};  // of the frequencies
  Index heads = 0;                 // that turn, from the first on; 0: all
  Index offset = 0;                // position of the first token, where none are given
  bool interleaved = false;        // dimension 2 j turns with 2 j + 1 instead
};

namespace ops {

/// What attention of these options does to queries and keys, and the same options without it.
inline RotaryOptions rotary_options(const AttentionOptions& o) {
  RotaryOptions turn{.base = o.rotary_base, .dims = o.rotary_dims, .scaling = o.rotary_scaling};
  turn.interleaved = o.rotary_interleaved;
  return turn;
}
inline AttentionOptions without_rotary(AttentionOptions o) {
  o.rotary_base = 0, o.rotary_dims = 0, o.rotary_scaling = {}, o.rotary_interleaved = false;
  return o;
}

template <class T>
struct RotaryTurn : Op {
  static constexpr In<T> x{0};                     // [B, T, N, H]
  static constexpr In<std::int32_t> positions{1};  // [B, T]
  static constexpr Out<T> y{0};
  RotaryOptions options;
  std::shared_ptr<SequenceRing> ring{};  // ranks of which each has a part of the sequences; null: they are whole

  explicit RotaryTurn(const RotaryOptions& o) : Op("rotary"), options(o) {}

  Specs infer(const Operands& in) const override {
    const Shape& xs = in[x].shape;
    require(xs.rank() == 4, "x has shape ", xs, ", [B, T, N, H] is needed");
    require(!in.has(positions) || in[positions].shape == Shape({xs[0], xs[1]}), "positions have shape ",
            in.has(positions) ? in[positions].shape : Shape{}, ", x of shape ", xs, " needs [", xs[0], ", ", xs[1],
            "]");
    if (ring != nullptr) static_cast<void>(ring->pieces(xs[1]));
    require(options.base > 0, "base ", options.base, " is not above 0");
    require(options.heads >= 0 && options.heads <= xs[2], "heads ", options.heads, " is not in [0, ", xs[2], "]");
    check_position(options.offset, "offset");
    if (const char* fault = fault_of(options.scaling)) fail(fault);
    const Index turned = options.dims == 0 ? xs[3] : options.dims;
    require(0 <= turned && turned <= xs[3] && turned % 2 == 0, "dims ", turned, " is not an even part of ", xs[3],
            " head dims");
    require(options.scaling.kind != RotaryScaling::longrope ||
                static_cast<Index>(options.scaling.factors.size()) == half(xs),
            "scaling has ", options.scaling.factors.size(), " factors, one a pair is needed: ", half(xs));
    return {y(xs)};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const Shape& xs = in[x].shape;
    const auto bytes = static_cast<std::size_t>(half(xs)) * sizeof(double) +
                       static_cast<std::size_t>(xs[0] * xs[1] * half(xs)) * 2 * sizeof(Accum<T>);
    return {.forward_scratch = bytes, .backward_scratch = bytes};
  }
  Residuals residuals(const Wanted&) const override { return {positions}; }
  void forward(Frame& f) const override { turn(f, f[x].data(), f[y].data(), 1); }
  /// The gradient of a turn is the turn back.
  void backward(Frame& f) const override { turn(f, f.grad(y).data(), f.grad(x).data(), -1); }
  GradientRule gradient(int) const override { return {.in_place = true}; }

 private:
  Index half(const Shape& xs) const { return rotary_pairs(xs[3], options.dims, options.scaling); }

  void turn(Frame& f, const T* from, T* to, int direction) const {
    const Shape& xs = f[x].shape();
    const Index pairs = half(xs), length = xs[1], heads = xs[2], dims = xs[3];
    const Index turning = options.heads == 0 ? heads : options.heads;
    AttentionOptions how;
    how.rotary_base = options.base, how.rotary_dims = options.dims, how.rotary_scaling = options.scaling;
    const auto problem = attention_problem<T>(length, length, how);
    const std::int32_t* places = f.has(positions) ? f[positions].data() : nullptr;
    const SequencePieces pieces = ring == nullptr ? SequencePieces{length, 0, 0, 1} : ring->pieces(length);
    const auto read = numbers(from);
    const auto write = numbers(to);
    double* frequencies = f.template scratch<double>();
    auto* tables = reinterpret_cast<Accum<T>*>(frequencies + pairs);
    for (Index j = 0; j < pairs; ++j) frequencies[j] = kernels::attention::rotary_frequency(problem, j, pairs);
    parallel_for(xs[0] * length, row_grain(heads * dims + 64 * pairs), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        Accum<T>*cosines = tables + i * 2 * pairs, *sines = cosines + pairs;
        const Index place = places == nullptr ? options.offset + pieces[i % length] : places[i];
        for (Index j = 0; j < pairs; ++j) {
          const double angle = static_cast<double>(place) * frequencies[j];
          cosines[j] = static_cast<Accum<T>>(problem.rotary_amplitude * std::cos(angle));
          sines[j] = static_cast<Accum<T>>(direction * problem.rotary_amplitude * std::sin(angle));
        }
        for (Index n = 0; n < heads; ++n) {
          const Index at = (i * heads + n) * dims, count = n < turning ? pairs : 0;
          const Index step = options.interleaved ? 2 : 1, apart = options.interleaved ? 1 : count;
          for (Index j = 0; j < count; ++j) {
            const Index first = at + step * j, second = first + apart;
            const Accum<T> a = read[first], b = read[second];
            write[first] = a * cosines[j] - b * sines[j];
            write[second] = b * cosines[j] + a * sines[j];
          }
          for (Index j = 2 * count; j < dims; ++j) write[at + j] = Accum<T>{read[at + j]};
        }
      }
    });
  }
};

}  // namespace ops

/// Turns the heads of x [B, T, N, H] by position: positions [B, T], or `options.offset`, one more, ... in every row ->
/// [B, T, N, H]. Scores of turned queries and keys depend on how far they are apart. Where ranks share a sequence,
/// positions that are not given are those in the whole.
template <class T>
Var<T> rotary(const Var<T>& x, const RotaryOptions& options = {}, const Like<std::int32_t>& positions = {}) {
  using O = ops::RotaryTurn<T>;
  O op(options);
  if (!positions.has_value()) op.ring = x.tape().ring();
  require(op.ring == nullptr || !x.tape().chunk(), "rotary: inside blockwise, a chunk of a rank's part of a sequence ",
          "does not say where it lies; give positions");
  return record(std::move(op), x, positions)[O::y];
}

}}  // namespace remat
