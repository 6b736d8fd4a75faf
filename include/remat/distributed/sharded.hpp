// An optimizer whose state lies in shards, one a rank: ZeRO, first and second stage (Rajbhandari et al. 2020).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <remat/core/state_dict.hpp>
#include <remat/distributed/gradient_sum.hpp>
#include <remat/distributed/shards.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/optimizer.hpp>
#include <remat/params/registry.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// Of `AdamW`, `Sgd` or `Lion`: each rank keeps the state of its own shard of the parameters, about 1/R of it, updates
/// that shard, and gets the rest of the new values from the others. The bits are those of the optimizer itself.
/// Every rank has all gradients, or its own shard of them, from `GradientSum::finish`; freeze parameters before.
template <class Inner>
class Sharded {
 public:
  /// Settings of the optimizer.
  using Config = std::remove_cvref_t<decltype(std::declval<const Inner&>().config())>;

  /// Of all parameters of the registry that are not frozen.
  Sharded(Group group, const ParameterRegistry& parameters, const Config& config = {})
      : Sharded(group, std::make_shared<const Shards>(parameters, group.size()), parameters, config) {}
  /// Of the parameters whose gradients are summed there.
  explicit Sharded(const GradientSum& gradients, const Config& config = {})
      : Sharded(gradients.group(), gradients.shards(), gradients.parameters(), config) {}

  /// As `Optimizer::step`, on all ranks with the same arguments; every rank has all gradients. Collective.
  void step(double learning_rate, double grad_scale = 1) {
    std::vector<std::uint8_t> is_updated;
    for (const auto& entry : shards_->entries()) is_updated.push_back(entry->has_grad ? 1 : 0);
    inner_.step(learning_rate, grad_scale);
    detail::spread_values(group_, *shards_, is_updated);
  }
  /// The same by what `gradients` has summed: all gradients, or with `own_shard_only` this rank's shard of them, which
  /// must be dealt out as this optimizer's state is. Collective.
  void step(GradientSum& gradients, double learning_rate, double grad_scale = 1) {
    if (!gradients.own_shard_only()) return step(learning_rate, grad_scale);
    require(gradients.shards()->same_as(*shards_),
            "sharded optimizer: gradients are dealt out to ranks otherwise than its state; make it of the GradientSum");
    detail::spread_values(group_, *shards_, gradients.update_shard(inner_.in_backward(learning_rate, grad_scale)));
  }
  /// For `gradients.begin(micro_batches, adamw.in_backward(rate))`, of the sum that it was made of: one step, each
  /// parameter as soon as its gradient is the sum of all ranks. Clipping by the global norm needs all of them first.
  ShardUpdate in_backward(double learning_rate, double grad_scale = 1) {
    return {inner_.in_backward(learning_rate, grad_scale), shards_};
  }

  /// See `Optimizer`.
  double step_count() const { return inner_.step_count(); }
  /// Of this rank's shard.
  std::size_t state_bytes() const { return inner_.state_bytes(); }
  /// As it was given.
  const Config& config() const { return inner_.config(); }

  /// The whole state, as the optimizer itself would have it, on the first rank; the others get their numbers alone.
  /// Collective.
  template <class = void>
  StateDict state_dict() const;
  /// Goes on from the state that the first rank gives, of any number of ranks or of the optimizer itself; what the
  /// others give is not read. Collective.
  template <class = void>
  void load_state_dict(const StateDict& state);

 private:
  Sharded(Group group, std::shared_ptr<const Shards> shards, const ParameterRegistry& parameters, const Config& config)
      : group_(std::move(group)), shards_(std::move(shards)), inner_(parameters, config) {
    inner_.update_only([shards = shards_, rank = group_.rank()](const ParameterEntry& entry) {
      const auto [begin, end] = shards->range(rank, entry);
      return optim::detail::ElementRange{begin, end};
    });
  }
  const ParameterEntry* entry_of(const std::string& name) const {
    const std::string path = name.substr(0, name.rfind('/'));
    for (const auto& entry : shards_->entries())
      if (entry->path == path) return entry.get();
    return nullptr;
  }
  static std::span<std::byte> part(std::byte* data, std::pair<Index, Index> range, DType dtype) {
    const std::size_t each = size_of(dtype);
    return {data + static_cast<std::size_t>(range.first) * each,
            static_cast<std::size_t>(range.second - range.first) * each};
  }

  Group group_;
  std::shared_ptr<const Shards> shards_;
  Inner inner_;
};

/// `AdamW` with its moments in shards.
using ShardedAdamW = Sharded<optim::AdamW>;

/// @cond inside
template <class Inner>
template <class>
StateDict Sharded<Inner>::state_dict() const {
  group_.enter("state_dict", 0);
  StateDict mine = inner_.state_dict(), whole;
  whole.numbers = std::move(mine.numbers);
  for (auto& [name, piece] : mine.tensors) {  // of the same names on all ranks
    const ParameterEntry* const entry = entry_of(name);
    if (group_.size() == 1) {  // all of it, and not copied
      piece.shape = entry->value.shape;
      whole.tensors.emplace(name, std::move(piece));
      continue;
    }
    if (!group_.is_first()) {
      if (piece.size() > 0) group_.send(std::span<const std::byte>(piece.data(), piece.bytes()), 0);
      continue;
    }
    AnyTensor all{piece.dtype, entry->value.shape, {}, 0};
    all.storage = pool().allocate(all.bytes());
    std::byte* const data = all.mutable_data();
    for (int rank = 0; rank < group_.size(); ++rank) {
      const auto to = part(data, shards_->range(rank, *entry), piece.dtype);
      if (to.empty()) continue;
      if (rank == 0)
        std::memcpy(to.data(), piece.data(), to.size());
      else
        group_.receive(to, rank);
    }
    whole.tensors.emplace(name, std::move(all));
  }
  return whole;
}

template <class Inner>
template <class>
void Sharded<Inner>::load_state_dict(const StateDict& state) {
  group_.enter("load_state_dict", 0);
  std::string names, numbers_of;
  std::vector<double> numbers;
  if (group_.is_first()) {
    for (const auto& [name, tensor] : state.tensors) {
      const ParameterEntry* const entry = entry_of(name);
      require(entry != nullptr, "sharded optimizer: the saved state has \"", name,
              "\", which is of no parameter that is trained here");
      require(tensor.shape == entry->value.shape, "sharded optimizer: the saved state has \"", name, "\" as ",
              name_of(tensor.dtype), tensor.shape, ", ", entry->value.shape, " is needed");
      names += static_cast<char>('0' + static_cast<int>(tensor.dtype)) + name + '\n';
    }
    for (const auto& [name, number] : state.numbers) numbers_of += name + '\n', numbers.push_back(number);
  }
  names = group_.broadcast(std::move(names)), numbers_of = group_.broadcast(std::move(numbers_of));
  numbers.resize(static_cast<std::size_t>(group_.broadcast(static_cast<std::uint64_t>(numbers.size()))));
  group_.broadcast(std::span(numbers));
  const auto cut = [](std::string& lines) {
    std::string line = lines.substr(0, lines.find('\n'));
    lines.erase(0, line.size() + 1);
    return line;
  };
  StateDict mine;
  for (const double number : numbers) mine.numbers.emplace(cut(numbers_of), number);
  while (!names.empty()) {
    const std::string line = cut(names), name = line.substr(1);
    const ParameterEntry* const entry = entry_of(name);
    require(entry != nullptr, "sharded optimizer: rank 0 has \"", name, "\", which rank ", group_.rank(), " lacks");
    const auto dtype = static_cast<DType>(line[0] - '0');  // the optimizer says if it is another than its own
    const auto [begin, end] = shards_->range(group_.rank(), *entry);
    AnyTensor piece{dtype, Shape{end - begin}, {}, 0};
    if (group_.size() == 1) {
      const AnyTensor& all = state.tensors.at(name);
      mine.tensors.emplace(name, AnyTensor{dtype, piece.shape, all.storage, all.offset});
      continue;
    }
    piece.storage = pool().allocate(piece.bytes());
    if (!group_.is_first()) {
      if (piece.size() > 0) group_.receive(std::span(piece.mutable_data(), piece.bytes()), 0);
    } else {
      std::byte* const data = const_cast<std::byte*>(state.tensors.at(name).data());  // only read
      for (int rank = 1; rank < group_.size(); ++rank) {
        const std::span<const std::byte> bytes = part(data, shards_->range(rank, *entry), dtype);
        if (!bytes.empty()) group_.send(bytes, rank);
      }
      const auto own = part(data, {begin, end}, dtype);
      std::memcpy(piece.mutable_data(), own.data(), own.size());
    }
    mine.tensors.emplace(name, std::move(piece));
  }
  inner_.load_state_dict(mine);
}
/// @endcond

}}}  // namespace remat::distributed
