// What file formats call the linear layers of a decoder that adapters may lie beside.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/core/near_misses.hpp>
#include <remat/io/decoder_weights.hpp>
#include <remat/nn/lora.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// A linear layer of a decoder.
struct NamedLinear {
  std::string layer{};     // its path: "model/decoder/layer_0/attention/query"
  std::string name{};      // in a file: "model.layers.0.self_attn.q_proj"
  std::string part{};      // of that, what all layers have: "self_attn.q_proj"
  Index paired_heads = 0;  // as in `WeightLayout`
};

/// All that a decoder has and a format has names for.
template <class T>
std::vector<NamedLinear> linears_of(const models::Decoder<T>& model, const DecoderNames& names) {
  std::vector<NamedLinear> all;
  for (std::size_t i = 0; i < model.decoder.layers.size(); ++i)
    for (const auto& [linear, part, heads, is_grouped] : linears_in(model.decoder.layers[i], names))
      if (!part.empty() && !is_grouped)
        all.push_back({linear->path, names.layers + std::to_string(i) + "." + part, part, heads});
  return all;
}

namespace detail {

/// `matrix` [rows, columns] turned over, [columns, rows]; its columns go to rows in the file's order.
template <class T>
Tensor<float> turned_for_file(const Tensor<T>& matrix, Index paired_heads = 0) {
  const Index rows = matrix.shape()[0], columns = matrix.shape()[1];
  std::vector<float> to(static_cast<std::size_t>(rows * columns));
  for (Index c = 0; c < columns; ++c)
    for (Index r = 0; r < rows; ++r)
      to[static_cast<std::size_t>(kernels::RowOrder{paired_heads}.stored(c, columns) * rows + r)] =
          static_cast<float>(matrix.data()[r * columns + c]);
  return {{columns, rows}, std::span<const float>(to)};
}
/// The reverse: of `matrix` [columns, rows] of a file.
template <class T>
Tensor<T> turned_from_file(const Tensor<float>& matrix, Index paired_heads = 0) {
  const Index columns = matrix.shape()[0], rows = matrix.shape()[1];
  std::vector<T> to(static_cast<std::size_t>(rows * columns));
  for (Index c = 0; c < columns; ++c)
    for (Index r = 0; r < rows; ++r)
      to[static_cast<std::size_t>(r * columns + kernels::RowOrder{paired_heads}.ours(c, columns))] =
          static_cast<T>(matrix.data()[c * rows + r]);
  return {{rows, columns}, std::span<const T>(to)};
}

/// Two halves of an adapter as a file has them: of what is adapted, [R, D] and [F, R].
struct StoredAdapter {
  std::string name;  // of the layer in the file
  Tensor<float> a{}, b{};
};

/// Makes the adapters of a file beside the layers that it names. An `Error` that begins with `path` for a layer that
/// the model does not have, and for halves that do not fit.
template <class T>
nn::Lora<T> lora_of(const std::string& path, const ParameterRegistry& parameters, const Scope& where,
                    const std::vector<NamedLinear>& linears, const std::vector<StoredAdapter>& stored,
                    nn::LoraConfig config) {
  require(!stored.empty(), path, ": holds no adapter");
  config.rank = stored.front().a.shape()[0];
  config.targets.clear();
  std::vector<std::pair<const NamedLinear*, const StoredAdapter*>> pairs;
  for (const StoredAdapter& each : stored) {
    const auto found =
        std::find_if(linears.begin(), linears.end(), [&](const auto& linear) { return linear.name == each.name; });
    if (found == linears.end()) {
      std::vector<std::string> names;
      for (const NamedLinear& linear : linears) names.push_back(linear.name);
      fail(path, ": has an adapter of ", remat::detail::quoted(each.name), ", which the model does not have",
           remat::detail::nearest_names(each.name, std::move(names)));
    }
    const Shape w = parameters.at<Accum<T>>(found->layer + "/w").shape(), &a = each.a.shape(), &b = each.b.shape();
    require(a == Shape({config.rank, w[0]}) && b == Shape({w[1], config.rank}), path, ": the adapter of ", each.name,
            " is ", a, " and ", b, "; of rank ", config.rank, ", as the first, it must be ", Shape{config.rank, w[0]},
            " and ", Shape{w[1], config.rank});
    config.targets.push_back(found->layer);
    pairs.emplace_back(&*found, &each);
  }
  nn::Lora<T> lora(parameters, where, config);
  for (const auto& [linear, each] : pairs)
    for (const auto& part : lora.parts())
      if (part.layer == linear->layer) {
        part.down.set_value(turned_from_file<Accum<T>>(each->a));
        part.up.set_value(turned_from_file<Accum<T>>(each->b, linear->paired_heads));
      }
  return lora;
}

}  // namespace detail

}}}  // namespace remat::io
