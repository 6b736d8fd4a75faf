// Low-rank adapters beside matrices that are not trained: LoRA (Hu et al. 2021, arXiv 2106.09685).
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <remat/core/parallel.hpp>
#include <remat/nn/column_lengths.hpp>
#include <remat/nn/config_checks.hpp>
#include <remat/nn/lora_targets.hpp>
#include <remat/params/registry.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `Lora`.
struct LoraConfig {
  /// Patterns over the paths of linear layers, `*` any run of characters and `?` one: "*/attention/query". By default
  /// all linears of all transformer layers. Where one projection makes query, key and value, "*/attention/qkv" is the
  /// whole, with one adapter, and "*/attention/query" its part, with one of its own. A pattern that fits both, such as
  /// "*/attention/*", is of the whole.
  std::vector<std::string> targets{"*/attention/*", "*/ffn/*"};
  Index rank = 8;                // R
  double alpha = 16;             // the product is scaled by alpha / R
  bool rank_stabilized = false;  // by alpha / sqrt(R) (Kalajdzievski 2023)
  double dropout = 0;            // on what an adapter reads, in training
  /// Weight-decomposed, DoRA (Liu et al. 2024): each column of the matrix and what is added to it is scaled to be as
  /// long as a trained magnitude says, at first as long as it was. Lengths are made again in every forward pass, from
  /// the matrix by strips; merge adapters before many tokens are generated one by one.
  bool dora = false;
  /// Patterns over the paths of embeddings, "*/embedding": a row becomes table[i] + scale down[i] up. A head that is
  /// tied to the table stays as it is, as with PEFT, so that these cannot be merged.
  std::vector<std::string> embeddings{};
  /// Patterns over the paths of heads: "*/head", or of one that is tied to a table "*/embedding", which then stays as
  /// it is where rows are looked up, so that these cannot be merged either.
  std::vector<std::string> heads{};
};

/// Adapters of a model that stays as it is: the product of each target w [D, F] becomes x w + scale dropout(x) down up,
/// with down [D, R] and up [R, F]. `up` begins as zeros, so that at first the model is as before; `down` as PEFT has
/// it. Several may be made of one model; of those with a common target, the last that was activated counts. A copy is a
/// handle to the same adapters.
template <class T>
class Lora {
 public:
  /// One matrix and what adapts it.
  struct Part {
    std::string layer;               // the path of the linear layer
    Parameter<Accum<T>> weight;      // w, at `<layer>/w`; of an embedding its table [V, D]
    Parameter<Accum<T>> down, up;    // [D, R], [R, F]; at `<where>/<layer>/down` and `up`, of a tied head at
                                     // `<where>/<layer>/head`
    Parameter<Accum<T>> magnitude;   // [F], of DoRA; at `<where>/<layer>/magnitude`
    std::vector<MatrixPart> pieces;  // of w, each of rank R: as in `LowRankAdapter`; empty: all of it
    bool is_of_rows = false;         // of an embedding: down [V, R] begins as zeros, up [R, D] as PEFT has it
    bool is_of_head = false;         // of a head w [V, D]: down [D, R], up [R, V]
  };

  /// Of the linears in `parameters` that a target fits; adapters are made in `where` and are active. Every other
  /// parameter is frozen: `parameters.unfreeze` those that are to be trained beside. An `Error` names a setting out of
  /// its range, and a target that fits no linear, with the nearest; nothing has changed then.
  Lora(const ParameterRegistry& parameters, const Scope& where, const LoraConfig& config)
      : config_(config), path_(where.path()), parameters_(parameters.handle()) {
    require(config.rank > 0, path_, ": lora: rank ", config.rank, " must be > 0");
    detail::check_positive(path_, "lora: alpha", config.alpha);
    detail::check_rate(path_, "lora: dropout", config.dropout);
    require(!config.targets.empty() || !config.embeddings.empty() || !config.heads.empty(), path_,
            ": lora: targets are empty, so that nothing would be adapted");
    require(!config.dora || (config.embeddings.empty() && config.heads.empty()), path_,
            ": lora: dora is of linear layers; leave embeddings and heads empty or set dora = false");
    const LayerScope here(where);
    using detail::Adapted;
    for (const auto& [what, patterns] : {std::pair{Adapted::embedding, &config.embeddings},
                                         {Adapted::head, &config.heads},
                                         {Adapted::linear, &config.targets}})
      for (const auto& target : detail::lora_targets(parameters, *patterns, path_, what))
        add(parameters, here, target, what);
    std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) {
      return std::pair(a.layer, a.is_of_head) < std::pair(b.layer, b.is_of_head);
    });
    auto made = adapters();
    parameters.freeze("*");
    activate(std::move(made));
  }

  /// As built.
  const LoraConfig& config() const { return config_; }
  /// All matrices that are adapted, in order of path.
  const std::vector<Part>& parts() const { return parts_; }
  /// Of the product of `down` and `up`.
  double scale() const {
    const auto rank = static_cast<double>(config_.rank);
    return config_.alpha / (config_.rank_stabilized ? std::sqrt(rank) : rank);
  }

  /// Tapes recorded from now on add these adapters, in the place of others that their targets had, and train them.
  void activate() const { activate(adapters()); }
  /// Tapes recorded from now on see the model without these adapters, which are frozen.
  void deactivate() const {
    for (const Part& part : parts_) {
      if (is_active(part)) held_by(part) = nullptr;
      set_frozen(part, true);
    }
  }
  /// The paths of what is trained and no part of an adapter, of these or others: what was unfrozen beside them, which a
  /// file of adapters does not hold.
  template <class = void>
  std::vector<std::string> trained_beside() const;
  /// A matrix with its adapter added, and the largest difference that rounding made to an element.
  struct Merged {
    Tensor<Accum<T>> weight;  // [D, F], or as the matrix lies
    double deviation = 0;     // of an element from its exact sum
  };
  /// Of one of `parts`; nothing changes.
  template <class = void>
  Merged merged(const Part& part) const;
  /// Adds every adapter to its matrix, which becomes numbers where it was stored otherwise, and deactivates them. The
  /// largest difference that rounding made to an element is returned: the model computes as before, but for that.
  template <class = void>
  double merge() const;
  /// How long the columns of a part's matrix are with its adapter added, before magnitudes scale them: [U].
  template <class = void>
  Tensor<Accum<T>> lengths(const Part& part) const;

 private:
  void add(const ParameterRegistry& parameters, const Scope& where, const detail::LoraTarget& target,
           detail::Adapted what) {
    const std::string& layer = target.layer;
    const auto& pieces = target.pieces;
    const bool of_rows = what == detail::Adapted::embedding, of_head = what == detail::Adapted::head;
    Part part{layer, parameters.at<Accum<T>>(target.weight), {}, {}, {}, pieces, of_rows, of_head};
    Scope scope = where;
    for (std::size_t begin = 0; begin <= layer.size();) {
      const std::size_t end = std::min(layer.find('/', begin), layer.size());
      scope = scope / layer.substr(begin, end - begin);
      begin = end + 1;
    }
    if (of_head && !part.weight.entry()->is_head) scope = scope / "head";
    const Index inputs = part.weight.shape()[of_head ? 1 : 0], outputs = part.weight.shape()[of_head ? 0 : 1];
    Index count = 0;
    each_part(pieces, config_.rank, outputs, [&](const AdaptedColumns& c) {
      require(config_.rank <= std::min(inputs, c.width), path_, ": lora: rank ", config_.rank, " is above that of ",
              pieces.empty() ? "" : pieces[static_cast<std::size_t>(count)].name + " of ", layer, ", whose matrix is ",
              Shape{inputs, c.width});
      ++count;
    });
    part.down =
        scope.parameter<Accum<T>>("down", {inputs, count * config_.rank},
                                  of_rows ? init::zeros() : init::uniform(1 / std::sqrt(static_cast<double>(inputs))));
    part.up = scope.parameter<Accum<T>>("up", {config_.rank, adapted_columns(pieces, outputs)},
                                        of_rows ? init::normal(1) : init::zeros());
    if (config_.dora) {
      part.magnitude = scope.parameter<Accum<T>>("magnitude", {adapted_columns(pieces, outputs)}, init::zeros());
      part.magnitude.set_value(lengths(part));  // up is zero
    }
    parts_.push_back(std::move(part));
  }
  /// What the entries of the weights hold while the adapters are active, in order of `parts_`.
  std::vector<std::shared_ptr<const LowRankAdapter>> adapters() const {
    std::vector<std::shared_ptr<const LowRankAdapter>> made;
    for (const Part& part : parts_)
      made.push_back(
          std::make_shared<LowRankAdapter>(LowRankAdapter{part.down.entry(), part.up.entry(), scale(), config_.dropout,
                                                          part.pieces, part.magnitude.entry(), part.is_of_rows}));
    return made;
  }
  void activate(std::vector<std::shared_ptr<const LowRankAdapter>> made) const {
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      held_by(parts_[i]) = std::move(made[i]);
      set_frozen(parts_[i], false);
    }
  }
  static std::shared_ptr<const LowRankAdapter>& held_by(const Part& part) {
    return part.is_of_head ? part.weight.entry()->head_adapter : part.weight.entry()->adapter;
  }
  static bool is_active(const Part& part) {
    const auto& adapter = held_by(part);
    return adapter && adapter->down == part.down.entry();
  }
  static void set_frozen(const Part& part, bool is_frozen) {
    for (const auto& parameter : {part.down, part.up, part.magnitude}) {
      if (!parameter) continue;
      const auto use = parameter.entry()->used(ParameterUse::write);
      parameter.entry()->is_frozen = is_frozen;
      if (is_frozen) parameter.entry()->drop_grad();
    }
  }

  LoraConfig config_;
  std::string path_;
  std::shared_ptr<const ParameterRegistry> parameters_;
  std::vector<Part> parts_;
};

template <class T>
template <class>
std::vector<std::string> Lora<T>::trained_beside() const {
  std::set<std::shared_ptr<ParameterEntry>> halves;
  const auto entries = parameters_->entries();
  for (const auto& entry : entries)
    for (const auto& adapter : {entry->adapter, entry->head_adapter})
      if (adapter) halves.insert({adapter->down, adapter->up, adapter->magnitude});
  std::vector<std::string> paths;
  for (const auto& entry : entries)
    if (!entry->is_frozen && !halves.contains(entry)) paths.push_back(entry->path);
  return paths;
}

template <class T>
template <class>
typename Lora<T>::Merged Lora<T>::merged(const Part& part) const {
  require(!part.is_of_rows, path_, ": lora: ", part.layer,
          " has an adapter of rows that are looked up, which merged would "
          "also change a head that is tied to it; keep the adapter");
  require(!part.is_of_head || part.weight.entry()->is_head, path_, ": lora: the head that is tied to ", part.layer,
          " has an adapter, which merged would also change the rows that are looked up; keep the adapter");
  const Tensor<Accum<T>> base = part.weight.value(), down = part.down.value(), up = part.up.value();
  const bool turned = part.is_of_head;  // base is [F, D]
  const Index inputs = base.shape()[turned ? 1 : 0], outputs = base.shape()[turned ? 0 : 1], ranks = down.shape()[1],
              columns = up.shape()[1];
  const Tensor<Accum<T>> norms = part.magnitude ? lengths(part) : Tensor<Accum<T>>(),
                         magnitudes = part.magnitude ? part.magnitude.value() : norms;
  AnyTensor sum = base.any().copied();
  auto* const to = reinterpret_cast<Accum<T>*>(sum.mutable_data());
  std::vector<double> deviations(static_cast<std::size_t>(inputs));
  parallel_for(inputs, row_grain(outputs * config_.rank), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      each_part(part.pieces, config_.rank, outputs, [&](const AdaptedColumns& c) {
        for (Index j = 0; j < c.width; ++j) {
          double product = 0;
          for (Index r = 0; r < c.rank; ++r)
            product += static_cast<double>(down.data()[i * ranks + c.of_down + r]) *
                       static_cast<double>(up.data()[r * columns + c.of_up + j]);
          Accum<T>& element = turned ? to[(c.of_w + j) * inputs + i] : to[i * outputs + c.of_w + j];
          double exact = static_cast<double>(element) + scale() * product;
          if (part.magnitude) {
            const auto norm = static_cast<double>(norms.data()[c.of_up + j]);
            exact = norm > 0 ? exact * static_cast<double>(magnitudes.data()[c.of_up + j]) / norm : 0;
          }
          element = static_cast<Accum<T>>(exact);
          double& deviation = deviations[static_cast<std::size_t>(i)];
          deviation = std::max(deviation, std::abs(static_cast<double>(element) - exact));
        }
      });
  });
  return {Tensor<Accum<T>>(std::move(sum)), *std::max_element(deviations.begin(), deviations.end())};
}

template <class T>
template <class>
Tensor<Accum<T>> Lora<T>::lengths(const Part& part) const {
  return detail::column_lengths(*part.weight.entry(), part.pieces, part.down.value(), part.up.value(), scale());
}

template <class T>
template <class>
double Lora<T>::merge() const {
  double largest = 0;
  for (const Part& part : parts_)
    if (part.is_of_rows || part.is_of_head) (void)merged(part);  // refused before anything changes
  for (const Part& part : parts_) {
    Merged sum = merged(part);
    largest = std::max(largest, sum.deviation);
    ParameterEntry& entry = *part.weight.entry();
    const auto use = entry.used(ParameterUse::write);
    entry.matrix = nullptr, entry.is_transposed = false;
    entry.value = std::move(sum.weight).any(), entry.cast = {}, entry.cast_from = {};
  }
  deactivate();
  return largest;
}

}}}  // namespace remat::nn
