// Dropout (Srivastava et al. 2014). No mask is kept: it is drawn again from its counter.
#pragma once

#include <remat/autodiff/tape.hpp>
#include <remat/kernels/dropout.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// The mask of the tape's next random op; none for rate 0 and in evaluate mode. A bad rate passes, for `infer` to
/// refuse.
inline DropoutMask next_mask(Tape& tape, double rate) {
  const bool is_valid = rate >= 0 && rate < 1;
  if (rate == 0 || (is_valid && !tape.is_training())) return {};
  return {is_valid ? tape.next_random_of_batch("dropout") : RandomStream{}, rate};
}

/// Where the elements of a tensor of this shape begin among those of the step's whole batch: so many rows on, where the
/// first axis is that of the tape's rows, or rows and what lies inside them. A tensor laid out otherwise begins beyond
/// all that another part may have, 2^34 elements a row on.
inline std::uint64_t first_in_batch(const Tape& tape, const Shape& shape) {
  const BatchPart& part = tape.part();
  if (part.first_row == 0) return 0;
  const auto row = static_cast<std::uint64_t>(part.first_row);
  if (part.is_regrouped || shape.rank() == 0 || shape[0] % part.rows != 0) return row << 34;
  return row * static_cast<std::uint64_t>(shape.size() / part.rows);
}

/// Of a tensor [B, T, ...] that is a rank's part of a sequence: the mask that the whole sequence has there.
inline DropoutMask mask_in_ring(DropoutMask mask, const Tape& tape, const Shape& shape) {
  const std::optional<ChunkPlace>& chunk = tape.chunk();
  require(!chunk || (!chunk->is_cut_elsewhere && chunk->axis <= 1 && shape[chunk->axis] == chunk->length),
          "dropout: inside blockwise of a rank's part of a sequence a tensor of shape ", shape,
          " is cut otherwise than along axis 0 or 1; cut one of these");
  const bool is_cut = chunk && chunk->axis == 1;
  const SequencePieces pieces = tape.ring()->pieces(is_cut ? chunk->whole : shape[1]);
  const Index inner = shape.size() == 0 ? 0 : shape.size() / (shape[0] * shape[1]);
  const Index offset = is_cut ? chunk->offset : 0;
  Shape full = shape;
  full[1] = pieces.whole();
  Index before = pieces[offset] * inner;
  if (chunk && chunk->axis == 0) full[0] = chunk->whole, before += chunk->offset * pieces.whole() * inner;
  mask.run = static_cast<std::uint64_t>(shape[1] * inner);
  mask.whole = static_cast<std::uint64_t>(pieces.whole() * inner);
  mask.first = first_in_batch(tape, full) + static_cast<std::uint64_t>(before);
  if (offset < pieces.length) {
    mask.jump_at = static_cast<std::uint64_t>((pieces.length - offset) * inner);
    mask.jump = static_cast<std::uint64_t>(pieces.gap() * inner);
  }
  return mask;
}

/// The same for a tensor of this shape, whose elements keep their masks when `blockwise` cuts it, or the caller the
/// batch, or ranks the sequence.
inline DropoutMask next_mask(Tape& tape, double rate, const Shape& shape) {
  DropoutMask mask = next_mask(tape, rate);
  if (!mask.active()) return mask;
  if (tape.ring() != nullptr && !tape.part().is_regrouped && shape.rank() >= 3) return mask_in_ring(mask, tape, shape);
  if (tape.ring() != nullptr) mask.stream.seed ^= tape.rank_seed();
  mask.first = first_in_batch(tape, shape);
  if (!tape.chunk()) return mask;
  const ChunkPlace& place = *tape.chunk();
  require(!place.is_cut_elsewhere, "dropout: inside blockwise over two axes; let one of them enclose no dropout");
  require(place.axis < shape.rank() && shape[place.axis] == place.length, "dropout: inside blockwise over axis ",
          place.axis, " in chunks of ", place.length, " a tensor of shape ", shape, " has no such axis");
  Index inner = 1;
  for (int i = place.axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  mask.run = static_cast<std::uint64_t>(place.length * inner);
  mask.whole = static_cast<std::uint64_t>(place.whole * inner);
  Shape full = shape;
  full[place.axis] = place.whole;
  mask.first = first_in_batch(tape, full) + static_cast<std::uint64_t>(place.offset * inner);
  return mask;
}

inline void check_rate(const DropoutMask& mask) {
  require(mask.rate >= 0 && mask.rate < 1, "dropout rate ", mask.rate, " is not in [0, 1)");
}

/// factors[i] is that of element at + i of the tensor, for i < count.
template <class T>
void mask_factors(const DropoutMask& mask, Index at, Index count, T* factors) {
  const auto begin = static_cast<std::uint64_t>(at), end = begin + static_cast<std::uint64_t>(count);
  for (std::uint64_t i = begin; i < end;) {
    const std::uint64_t left = mask.together(i, end - i);
    kernels::dropout_factors(mask, mask.coordinate(i), static_cast<Index>(left), factors + (i - begin));
    i += left;
  }
}

/// Calls `body(at, count, factors)` on pieces of [begin, end): factors[i] is that of element at + i, in an array that
/// the body may use up.
template <class T, class F>
void each_factors(const DropoutMask& mask, Index begin, Index end, F&& body) {
  constexpr Index piece = 256;
  alignas(alignment) T factors[piece];
  for (Index at = begin; at < end; at += piece) {
    const Index count = std::min(piece, end - at);
    if (mask.active())
      mask_factors(mask, at, count, factors);
    else
      std::fill_n(factors, piece, T{1});
    body(at, count, factors);
  }
}

/// The same of [0, size), in parallel.
template <class T, class F>
void with_factors(const DropoutMask& mask, Index size, F&& body) {
  parallel_for(size, 4096, [&](Index begin, Index end) { each_factors<T>(mask, begin, end, body); });
}

template <class T>
struct Dropout : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};
  DropoutMask mask;

  explicit Dropout(const DropoutMask& m) : Op("dropout"), mask(m) {}

  Specs infer(const Operands& in) const override {
    check_rate(mask);
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { apply(f[x].data(), f[y].data(), f[y].size()); }
  void backward(Frame& f) const override { apply(f.grad(y).data(), f.grad(x).data(), f[x].size()); }
  GradientRule gradient(int) const override { return {.in_place = true}; }

 private:
  void apply(const T* from, T* to, Index size) const {
    with_factors<Accum<T>>(mask, size,
                           [xs = numbers(from), ys = numbers(to)](Index at, Index count, const Accum<T>* factors) {
                             for (Index i = 0; i < count; ++i) ys[at + i] = xs[at + i] * factors[i];
                           });
  }
};

/// What the op `Masked` makes of x by this mask; x itself where there is none, for rate 0 and in evaluate mode.
template <template <class> class Masked, class T>
Var<T> masked(const Var<T>& x, const DropoutMask& mask) {
  if (mask.rate == 0) return x;
  return record(Masked<T>(mask), x)[Masked<T>::y];
}

}  // namespace ops

/// Zeroes elements with probability `rate`, 0 <= rate < 1, and scales the others by 1 / (1 - rate). Returns x itself
/// for rate 0 and in evaluate mode.
template <class T>
Var<T> dropout(const Var<T>& x, double rate) {
  return ops::masked<ops::Dropout>(x, ops::next_mask(x.tape(), rate, x.shape()));
}

}}  // namespace remat
