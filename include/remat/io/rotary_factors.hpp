// Rotary frequencies that a GGUF file divides one by one: the tensor `rope_freqs` of Llama 3.1 and its kind.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/kernels/attention/rotary.hpp>
#include <remat/models/decoder.hpp>
#include <span>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace detail {

/// What the frequency of each pair is divided by [pairs], where that is all that is done to them; else nothing.
inline std::vector<float> rotary_factors_of(const nn::AttentionConfig& c) {
  const RotaryScalingOptions& scaling = c.rotary_scaling;
  const bool is_one = ops::rotary_amplitude(scaling) == 1;
  if ((scaling.kind != RotaryScaling::llama3 && scaling.kind != RotaryScaling::longrope) || !is_one) return {};
  AttentionOptions turn;
  turn.rotary_base = c.rotary_base, turn.rotary_scaling = scaling;
  const auto problem = ops::attention_problem<double>(1, 1, turn);
  const Index pairs = ops::rotary_pairs(c.head_dims, c.rotary_dims, scaling);
  std::vector<float> factors;
  for (Index j = 0; j < pairs; ++j)
    factors.push_back(static_cast<float>(std::pow(c.rotary_base, -static_cast<double>(j) / static_cast<double>(pairs)) /
                                         kernels::attention::rotary_frequency(problem, j, pairs)));
  return factors;
}
/// Those of all layers that turn anything, if they are the same.
inline std::vector<float> rotary_factors_of(const models::DecoderConfig& config) {
  std::vector<float> factors;
  for (const nn::TransformerLayerConfig& layer : config.layers) {
    if (layer.attention.rotary_base == 0) continue;
    const std::vector<float> own = rotary_factors_of(layer.attention);
    if (own.empty() || (!factors.empty() && own != factors)) return {};
    factors = own;
  }
  return factors;
}

/// The scaling that these factors are of: Llama 3.1's with the bounds that all published models have, or one by one.
inline RotaryScalingOptions rotary_scaling_of(nn::AttentionConfig c, std::span<const float> factors) {
  const auto is_near = [&](const std::vector<float>& made) {
    return std::equal(made.begin(), made.end(), factors.begin(), factors.end(),
                      [](float a, float b) { return std::abs(a - b) <= 1e-5F * b; });
  };
  const double most = *std::max_element(factors.begin(), factors.end());
  const auto pairs = static_cast<double>(factors.size());
  for (std::size_t j = 0; j < factors.size(); ++j) {
    const double factor = factors[j];
    if (factor <= 1 || factor >= most) continue;
    // A pair in between tells the context: how often it turns within that.
    RotaryScalingOptions& scaling = c.rotary_scaling = {RotaryScaling::llama3, most, 1, 4, 0};
    const double kept = (1 / factor - 1 / most) / (1 - 1 / most);
    const double turns =
        scaling.low_frequency_factor + kept * (scaling.high_frequency_factor - scaling.low_frequency_factor);
    constexpr double pi = 3.14159265358979323846;
    const double context = turns * 2 * pi * std::pow(c.rotary_base, static_cast<double>(j) / pairs);
    if (!(context < 1e15)) break;
    scaling.original_context = static_cast<Index>(std::llround(context));
    if (scaling.original_context > 0 && is_near(rotary_factors_of(c))) return scaling;
    break;
  }
  RotaryScalingOptions each{RotaryScaling::longrope};
  each.factors.assign(factors.begin(), factors.end());
  each.attention_factor = 1;
  return each;
}
/// Gives them to all layers that turn anything. An `Error` that begins with `path` unless they fit.
inline void set_rotary_factors(models::DecoderConfig& config, std::span<const float> factors, const std::string& path) {
  const bool are_numbers =
      std::all_of(factors.begin(), factors.end(), [](float f) { return f > 0 && std::isfinite(f); });
  require(are_numbers, path, " has factors that are not above 0 and finite");
  const bool changes_nothing = std::all_of(factors.begin(), factors.end(), [](float f) { return f == 1; });
  for (nn::TransformerLayerConfig& layer : config.layers) {
    nn::AttentionConfig c = layer.attention;
    if (c.rotary_base == 0) continue;
    c.model_dims = config.model_dims, c.num_heads = layer.num_heads;
    c = nn::completed(c, path);
    const Index pairs = ops::rotary_pairs(c.head_dims, c.rotary_dims, c.rotary_scaling);
    require(static_cast<Index>(factors.size()) == pairs, path, " has ", factors.size(), " factors, there are ", pairs,
            " pairs of dimensions that turn");
    if (changes_nothing) continue;
    require(c.rotary_scaling.kind == RotaryScaling::none, path,
            " divides frequencies that rope.scaling lowers, too; one of them is supported");
    layer.attention.rotary_scaling = rotary_scaling_of(c, factors);
  }
}

}}}}  // namespace remat::io::detail
