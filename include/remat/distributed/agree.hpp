// What all ranks have in common before they train: values of parameters, who makes which products, tokens of a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <remat/distributed/group.hpp>
#include <remat/io/fingerprint.hpp>
#include <remat/kernels/gemm.hpp>
#include <remat/params/registry.hpp>
#include <remat/policy/parse.hpp>
#include <remat/policy/policy.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// An `Error` on every rank, which names the first parameter that differs, unless all ranks have the same parameters
/// with the same values; call it before the first step. Matrices that are read from files are compared by shape.
/// Collective.
template <class = void>
void require_equal(const Group& group, const ParameterRegistry& parameters) {
  const auto entries = parameters.entries();
  std::vector<std::uint64_t> mine;
  for (const auto& entry : entries) {
    const auto use = entry->used(ParameterUse::read);
    io::Fingerprint hash;
    hash.add(entry->path);
    hash.add(static_cast<std::uint64_t>(entry->value.dtype));
    for (const Index axis : entry->value.shape) hash.add(static_cast<std::uint64_t>(axis));
    hash.add(static_cast<std::uint64_t>(entry->is_frozen));
    if (entry->value.storage) hash.add(std::span(entry->value.data(), entry->value.bytes()));
    mine.push_back(hash.value());
  }
  const auto all = group.gather(std::span<const std::uint64_t>(mine));
  for (int r = 1; r < group.size(); ++r) {
    const auto& theirs = all[static_cast<std::size_t>(r)];
    require(theirs.size() == all.front().size(), "distributed: rank ", r, " has ", theirs.size(),
            " parameters, rank 0 ", all.front().size(), "; build one model on all ranks");
    for (std::size_t e = 0; e < theirs.size(); ++e)
      require(
          theirs[e] == all.front()[e], "distributed: ", entries[e]->path, " of rank ", r,
          " differs from that of rank 0 in value, shape or type; begin with one seed, or load one file, on all ranks");
  }
}

/// Gives every rank the values of the first rank's parameters. An `Error` where one is read from a file. Collective.
template <class = void>
void broadcast_values(const Group& group, const ParameterRegistry& parameters) {
  for (const auto& entry : parameters.entries()) {
    const auto use = entry->used(ParameterUse::write);
    std::byte* const bytes = entry->writable();
    group.broadcast(std::span(bytes, entry->value.bytes()));
  }
}

/// From now on all ranks multiply as the first one does: what each measured for itself may differ, and with it the last
/// bits of every product. At the start of a program. Collective.
inline void agree_on_products(const Group& group) {
  if (group.size() == 1) return;
  kernels::set_gemm_choice(kernels::GemmChoice::parse(group.broadcast(kernels::gemm_choice().text())));
}

/// An `Error` on every rank, which names one that differs, unless all have the same policy. Collective.
template <class = void>
void require_same_policy(const Group& group, const Policy& policy) {
  const std::string text = policy::to_string(policy);
  io::Fingerprint hash;
  hash.add(text);
  const auto hashes = group.gather(hash.value());
  for (int r = 1; r < group.size(); ++r)
    require(hashes[static_cast<std::size_t>(r)] == hashes.front(), "distributed: rank ", r,
            " has another policy than rank 0; rank ", group.rank(), " has ", text.substr(0, 200),
            "; choose it on one rank, by agree_on_policy");
}

/// The policy that `choose()` gives on rank 0, on all ranks: for a plan, which ranks that measured or may hold other
/// than each other would make otherwise. What a replay recomputes changes no bit and never communicates, but ranks of
/// one plan take one time. The others do not call `choose`; all get its `Error`. A hash of what each then has is
/// compared. An `Error` for a policy whose text cannot be read back, one made of a function. Collective.
template <class Choose>
Policy agree_on_policy(const Group& group, Choose&& choose) {
  std::string text, failure;
  std::optional<Policy> chosen;
  if (group.is_first()) try {
      chosen = choose();
      if (group.size() == 1) return *chosen;
      text = policy::to_string(*chosen);
      static_cast<void>(policy::parse(text));
    } catch (const Error& error) {
      if (group.size() == 1) throw;
      failure = error.what();
    }
  failure = group.broadcast(std::move(failure));
  require(failure.empty(), failure);
  text = group.broadcast(std::move(text));
  if (!chosen) chosen = policy::parse(text);
  require_same_policy(group, *chosen);
  return *chosen;
}

/// What the mean loss of each of this rank's micro-batches counts in the mean over the target tokens of all ranks, of
/// which it has `own` (numbers, or sums of weights): own[i] over their sum in the order of micro-batches, which is the
/// same on any number of ranks. An `Error` where there are none at all. Collective.
inline std::vector<double> token_shares(const Group& group, std::span<const double> own) {
  double total = 0;
  for (const auto& theirs : group.gather(own))
    for (const double tokens : theirs) total += tokens;
  require(total > 0, "token shares: all micro-batches together have ", total, " target tokens");
  std::vector<double> shares;
  for (const double tokens : own) shares.push_back(tokens / total);
  return shares;
}

}}}  // namespace remat::distributed
