// What file formats call the linear layers of a decoder that adapters may lie beside.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <remat/core/near_misses.hpp>
#include <remat/io/decoder_weights.hpp>
#include <remat/nn/lora.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// A linear layer of a decoder, or a part of one that a format has as a tensor of its own.
struct NamedLinear {
  std::string layer{};                // its path: "model/decoder/layer_0/attention/query"
  std::string name{};                 // in a file: "model.layers.0.self_attn.q_proj"
  std::string part{};                 // of that, what all layers have: "self_attn.q_proj"
  kernels::RowOrder order{};          // of its rows in the file
  std::optional<MatrixPart> piece{};  // of the layer's matrix; empty: all of it
  bool is_embedding = false;          // its matrix is a table
  bool is_head = false;               // its matrix is read transposed
  bool is_tied = false;               // of a head: its matrix is a table
};

/// All that a decoder has and a format has names for; a head is one where it is not tied.
template <class T>
std::vector<NamedLinear> linears_of(const models::Decoder<T>& model, const DecoderNames& names) {
  std::vector<NamedLinear> all;
  for (std::size_t i = 0; i < model.decoder.layers.size(); ++i) {
    const nn::TransformerLayer<T>& layer = model.decoder.layers[i];
    const nn::AttentionConfig& attention = layer.attention.config;
    const auto add = [&](const std::string& path, const std::string& part, const kernels::RowOrder& order,
                         std::optional<MatrixPart> piece = {}) {
      if (!part.empty()) all.push_back({path, names.layers + std::to_string(i) + "." + part, part, order, piece});
    };
    for (const auto& [linear, part, heads, is_grouped] : linears_in(layer, names))
      add(linear->path, part,
          is_grouped ? kernels::RowOrder{0, attention.num_heads, attention.num_kv_heads} : kernels::RowOrder{heads});
    if (!layer.attention.qkv || !names.qkv.empty()) continue;
    for (const MatrixPart& piece : layer.attention.qkv->w.entry()->parts) {
      const bool is_query = piece.name == "query", turns = names.paired_turns && piece.name != "value";
      add(layer.attention.qkv->path,
          is_query              ? names.query
          : piece.name == "key" ? names.key
                                : names.value,
          {turns ? is_query ? attention.num_heads : attention.num_kv_heads : 0}, piece);
    }
  }
  if (model.head && !names.head.empty()) {
    const std::string w = model.head->path();
    all.push_back({w.substr(0, w.rfind('/')), names.head, names.head, {}, {}, false, true});
  }
  return all;
}

namespace detail {

/// Columns [begin, end) of `matrix` [rows, width] turned over, [end - begin, rows]; they go to rows in the file's
/// order.
template <class T>
Tensor<float> turned_for_file(const Tensor<T>& matrix, const kernels::RowOrder& order, Index begin, Index end) {
  const Index rows = matrix.shape()[0], width = matrix.shape()[1], columns = end - begin;
  std::vector<float> to(static_cast<std::size_t>(rows * columns));
  for (Index c = 0; c < columns; ++c)
    for (Index r = 0; r < rows; ++r)
      to[static_cast<std::size_t>(order.stored(c, columns) * rows + r)] =
          static_cast<float>(matrix.data()[r * width + begin + c]);
  return {{columns, rows}, std::span<const float>(to)};
}
/// All of them.
template <class T>
Tensor<float> turned_for_file(const Tensor<T>& matrix, const kernels::RowOrder& order = {}) {
  return turned_for_file(matrix, order, 0, matrix.shape()[1]);
}
/// The reverse, into columns from `begin` on of `matrix` [rows, width]: of `from` [columns, rows] of a file, times
/// `factor`.
template <class T>
void turn_from_file(const Tensor<float>& from, const kernels::RowOrder& order, double factor, Index begin,
                    Tensor<T>& matrix) {
  const Index columns = from.shape()[0], rows = from.shape()[1], width = matrix.shape()[1];
  T* const to = matrix.write().data();
  for (Index c = 0; c < columns; ++c)
    for (Index r = 0; r < rows; ++r)
      to[r * width + begin + order.ours(c, columns)] =
          static_cast<T>(factor * static_cast<double>(from.data()[c * rows + r]));
}

/// Two halves of an adapter as a file has them: of what is adapted, [R, D] and [F, R].
struct StoredAdapter {
  std::string name;  // of the layer in the file
  Tensor<float> a{}, b{};
  /// Of parts of a fused projection, whose names these are, R is theirs together, and b has zeros but for the rows of
  /// each part in its own columns.
  std::vector<std::string> pieces{};
  double alpha = 0;           // of one part, of one adapter
  Tensor<float> magnitude{};  // [F], of DoRA

  /// How many of rank R, as `nn::Lora` counts it, a and b are.
  Index count() const { return std::max<Index>(1, static_cast<Index>(pieces.size())); }
};

/// Magnitudes of the columns of a matrix as those of rows of a file, and back.
template <class T>
Tensor<float> magnitudes_for_file(const Tensor<T>& all, const kernels::RowOrder& order, Index begin, Index end) {
  return turned_for_file(all.reshape({1, all.size()}), order, begin, end).reshape({end - begin});
}
template <class T>
void magnitudes_from_file(const Tensor<float>& from, const kernels::RowOrder& order, Index begin, Tensor<T>& to) {
  Tensor<T> row = to.reshape({1, to.size()});
  turn_from_file(from.reshape({from.size(), 1}), order, 1, begin, row);
  to = row.reshape({to.size()});
}

/// Is this the place of the adapter? An embedding's is not that of the head that is tied to it.
template <class T>
bool is_of(const typename nn::Lora<T>::Part& part, const NamedLinear& linear) {
  return linear.layer == part.layer && linear.is_embedding == part.is_of_rows && linear.is_head == part.is_of_head;
}

/// An `Error` that begins with `path` where more of the model is trained than a file of adapters holds.
template <class T>
void require_adapters_alone(const nn::Lora<T>& lora, const models::Decoder<T>& model, const std::string& path) {
  for (const std::string& trained : lora.trained_beside())
    require(!trained.starts_with(model.path + "/"), path, ": ", trained,
            " is trained beside the adapters, which would be saved without it; merge them and save the whole model");
}

/// The adapters of a matrix of a decoder as a format has them: one, or several where it has query, key and value apart.
/// An `Error` that begins with `path` where it has no name for them.
template <class T>
std::vector<StoredAdapter> stored_adapters(const typename nn::Lora<T>::Part& part,
                                           const std::vector<NamedLinear>& linears, const std::string& path) {
  std::vector<StoredAdapter> all;
  const Tensor<Accum<T>> down = part.down.value(), up = part.up.value();
  const Index rank = up.shape()[0], outputs = part.weight.shape()[part.is_of_head ? 0 : 1];
  for (const NamedLinear& linear : linears) {
    if (!is_of<T>(part, linear)) continue;
    const bool is_blocks = !part.pieces.empty() && !linear.piece;
    StoredAdapter one{linear.name, {}, {}, {}, 0};
    Tensor<float> blocks({is_blocks ? down.shape()[1] : 0, outputs}, 0.0F);  // of up, zeros in the others' columns
    const Tensor<Accum<T>> some = part.magnitude ? part.magnitude.value() : Tensor<Accum<T>>();
    Tensor<Accum<T>> lengths;  // of all columns: those that no part has are as they were
    if (is_blocks && part.magnitude) lengths = nn::detail::column_lengths<Accum<T>>(*part.weight.entry());
    each_part(part.pieces, rank, outputs, [&, p = std::size_t{0}](const AdaptedColumns& c) mutable {
      const MatrixPart* const piece = part.pieces.empty() ? nullptr : &part.pieces[p++];
      if (is_blocks) {
        one.pieces.push_back(piece->name);
        for (Index r = 0; r < rank; ++r)
          std::copy_n(up.data() + r * up.shape()[1] + c.of_up, c.width,
                      blocks.write().data() + (c.of_down + r) * outputs + c.of_w);
        if (part.magnitude) std::copy_n(some.data() + c.of_up, c.width, lengths.write().data() + c.of_w);
      } else if (piece == nullptr || *piece == *linear.piece) {
        const MatrixPart of = piece != nullptr ? MatrixPart{"", c.of_up, c.of_up + c.width}
                                               : linear.piece.value_or(MatrixPart{"", 0, outputs});
        one.a = turned_for_file(down, {}, c.of_down, c.of_down + rank);
        one.b = turned_for_file(up, linear.order, of.begin, of.end);
        if (part.magnitude) one.magnitude = magnitudes_for_file(some, linear.order, of.begin, of.end);
      }
    });
    if (is_blocks) one.a = turned_for_file(down), one.b = turned_for_file(blocks, linear.order);
    if (is_blocks && part.magnitude) one.magnitude = magnitudes_for_file(lengths, linear.order, 0, outputs);
    if (one.a.shape().rank() == 2) all.push_back(std::move(one));
  }
  require(!all.empty(), path, ": ", part.is_of_head ? "the head of " : "", part.layer,
          " is adapted, but the format has no name for it");
  return all;
}

/// How many parts all adapters of a file are of, or 1 where some are of more than others.
inline Index common_count(const std::vector<StoredAdapter>& all) {
  for (const StoredAdapter& each : all)
    if (each.count() != all.front().count()) return 1;
  return all.empty() ? 1 : all.front().count();
}

/// Sets an adapter to what a file has of it, `factor` times. An `Error` that begins with `path` where that is said to
/// be of parts and is not.
template <class T>
void fill_from_file(const std::string& path, const typename nn::Lora<T>::Part& part, const NamedLinear& linear,
                    const StoredAdapter& stored, double factor) {
  Tensor<Accum<T>> down = part.down.value(), up = part.up.value();
  const Index rank = up.shape()[0], outputs = part.weight.shape()[part.is_of_head ? 0 : 1];
  const bool is_blocks = !part.pieces.empty() && !linear.piece;
  Tensor<Accum<T>> blocks({is_blocks ? down.shape()[1] : 0, outputs}, Accum<T>{0});  // of up, zeros between them
  if (is_blocks) {
    turn_from_file(stored.a, {}, 1, 0, down);
    turn_from_file(stored.b, linear.order, factor, 0, blocks);
  }
  Tensor<Accum<T>> some, lengths;  // magnitudes of the parts, and of all columns
  if (part.magnitude) some = part.magnitude.value();
  if (part.magnitude && is_blocks) {
    lengths = Tensor<Accum<T>>({outputs});
    magnitudes_from_file(stored.magnitude, linear.order, 0, lengths);
  }
  each_part(part.pieces, rank, outputs, [&, p = std::size_t{0}](const AdaptedColumns& c) mutable {
    const MatrixPart* const piece = part.pieces.empty() ? nullptr : &part.pieces[p++];
    if (!is_blocks && (piece == nullptr || *piece == *linear.piece)) {
      turn_from_file(stored.a, {}, 1, c.of_down, down);
      turn_from_file(stored.b, linear.order, factor, c.of_up, up);
      if (part.magnitude) magnitudes_from_file(stored.magnitude, linear.order, c.of_up, some);
    }
    if (part.magnitude && is_blocks) std::copy_n(lengths.data() + c.of_w, c.width, some.write().data() + c.of_up);
    for (Index r = 0; is_blocks && r < rank; ++r) {
      Accum<T>* const block = blocks.write().data() + (c.of_down + r) * outputs + c.of_w;
      std::copy_n(block, c.width, up.write().data() + r * up.shape()[1] + c.of_up);
      std::fill_n(block, c.width, Accum<T>{0});
    }
  });
  require(std::all_of(blocks.data(), blocks.data() + blocks.size(), [](Accum<T> v) { return v == 0; }), path,
          ": the adapter of ", stored.name, " is said to be of parts, but its b is not zero between them");
  if (part.magnitude && is_blocks) {
    const Tensor<Accum<T>> base = nn::detail::column_lengths<Accum<T>>(*part.weight.entry());
    for (Index j = 0; j < outputs; ++j) {
      const bool is_adapted = std::any_of(part.pieces.begin(), part.pieces.end(),
                                          [&](const auto& piece) { return piece.begin <= j && j < piece.end; });
      require(is_adapted || std::abs(lengths.data()[j] - base.data()[j]) <= Accum<T>{1e-3F} * base.data()[j], path,
              ": the adapter of ", stored.name,
              " is said to be of parts, but other magnitudes are not those of the "
              "matrix");
    }
  }
  part.down.set_value(down);
  part.up.set_value(up);
  if (part.magnitude) part.magnitude.set_value(some);
}

/// Makes the adapters of a file beside the layers that it names. An `Error` that begins with `path` for a layer that
/// the model does not have, and for halves that do not fit.
template <class T>
nn::Lora<T> lora_of(const std::string& path, const ParameterRegistry& parameters, const Scope& where,
                    const std::vector<NamedLinear>& linears, const std::vector<StoredAdapter>& stored,
                    nn::LoraConfig config) {
  require(!stored.empty(), path, ": holds no adapter");
  config.rank = stored.front().a.shape()[0] / stored.front().count();
  const auto whole = std::find_if(stored.begin(), stored.end(), [](const auto& each) { return each.count() == 1; });
  config.alpha = (whole != stored.end() ? *whole : stored.front()).alpha;
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
    const std::string matrix = found->layer + (found->is_embedding || found->is_tied ? "/table" : "/w");
    const Shape stored_w = parameters.at<Accum<T>>(matrix).shape(), &a = each.a.shape(), &b = each.b.shape();
    const Shape w = found->is_head ? Shape{stored_w[1], stored_w[0]} : stored_w;
    const Index rank = config.rank * each.count(), rows = found->piece ? found->piece->end - found->piece->begin : w[1];
    require(a == Shape({rank, w[0]}) && b == Shape({rows, rank}), path, ": the adapter of ", each.name, " is ", a,
            " and ", b, "; of rank ", config.rank, ", as the first, it must be ", Shape{rank, w[0]}, " and ",
            Shape{rows, rank});
    require(!config.dora || each.magnitude.shape() == Shape({rows}), path, ": the magnitudes of ", each.name, " are ",
            each.magnitude.shape(), "; of use_dora they must be ", Shape{rows});
    const std::string beside = found->layer.substr(0, found->layer.rfind('/') + 1);
    if (found->is_embedding)
      config.embeddings.push_back(found->layer);
    else if (found->is_head)
      config.heads.push_back(found->layer);
    else if (found->piece)
      config.targets.push_back(beside + found->piece->name);
    else if (each.pieces.empty())
      config.targets.push_back(found->layer);
    const std::vector<MatrixPart> parts = parameters.at<Accum<T>>(matrix).entry()->parts;
    std::size_t at = 0;  // behind the part before
    for (const std::string& piece : each.pieces) {
      while (at < parts.size() && parts[at].name != piece) ++at;
      require(at++ < parts.size(), path, ": the adapter of ", each.name, " is said to be of the part ",
              remat::detail::quoted(piece), ", which ", found->layer, " does not have, or not there");
      config.targets.push_back(beside + piece);
    }
    pairs.emplace_back(&*found, &each);
  }
  nn::Lora<T> lora(parameters, where, config);
  for (const auto& [linear, each] : pairs)
    for (const auto& part : lora.parts())
      if (is_of<T>(part, *linear)) fill_from_file<T>(path, part, *linear, *each, each->alpha / config.alpha);
  return lora;
}

}  // namespace detail

}}}  // namespace remat::io
