// How long the columns of a parameter's matrix are with what an adapter adds to them.
#pragma once

#include <cstddef>
#include <remat/kernels/adapted_norms.hpp>
#include <remat/params/registry.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace nn { namespace detail {

/// How long the columns of a matrix [D, F] are with what an adapter adds to them: of all that it is of, as in
/// `LowRankAdapter`.
template <class A>
Tensor<A> column_lengths(ParameterEntry& entry, const std::vector<MatrixPart>& parts, const Tensor<A>& down,
                         const Tensor<A>& up, double scale) {
  const auto use = entry.used(ParameterUse::read);
  const Tensor<A> numbers = entry.matrix ? Tensor<A>() : Tensor<A>(entry.numbers());
  const Index inputs = entry.value.shape[0], outputs = entry.value.shape[1];
  const kernels::AdaptedNorms<A> of{inputs, outputs, entry.matrix.get(), entry.is_transposed};
  Tensor<A> lengths({up.shape()[1]});
  std::vector<std::byte> scratch(of.scratch(up.shape()[0]));
  each_part(parts, up.shape()[0], outputs, [&, to = lengths.write().data()](const AdaptedColumns& c) {
    of.run(entry.matrix ? nullptr : numbers.data(), down.data() + c.of_down, up.data() + c.of_up, scale,
           {c.of_w, c.of_w + c.width, c.rank, down.shape()[1], up.shape()[1]}, to + c.of_up, scratch.data());
  });
  return lengths;
}
/// The same without one: [F].
template <class A>
Tensor<A> column_lengths(ParameterEntry& entry) {
  return column_lengths(entry, {}, Tensor<A>({entry.value.shape[0], 0}), Tensor<A>({0, entry.value.shape[1]}), 0);
}

}}}}  // namespace remat::nn::detail
