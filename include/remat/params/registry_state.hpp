// What a registry and its scopes have in common.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <remat/params/parameter.hpp>
#include <remat/params/sharing.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace detail {

struct RegistryState {
  std::uint64_t seed = 0;
  std::map<std::string, std::shared_ptr<ParameterEntry>> entries{};
  std::map<std::string, std::vector<std::string>> ids{};
  SharedUses uses{};
  Construction construction{};

  /// The same with parameters of its own, and no layer under construction.
  RegistryState copy() const {
    RegistryState to{seed, {}, ids, uses, {}};
    for (const auto& [path, entry] : entries) to.entries.emplace(path, std::make_shared<ParameterEntry>(entry->copy()));
    for (const auto& [path, entry] : to.entries)
      for (auto* const held : {&entry->adapter, &entry->head_adapter}) {
        if (!*held) continue;
        auto adapter = std::make_shared<LowRankAdapter>(**held);  // of its own parameters
        for (auto* const half : {&adapter->down, &adapter->up, &adapter->magnitude})
          if (*half) *half = to.entries.at((*half)->path);
        *held = std::move(adapter);
      }
    return to;
  }
};

template <class = void>
std::shared_ptr<RegistryState> new_registry_state(std::uint64_t seed) {
  return std::make_shared<RegistryState>(RegistryState{seed});
}

}}}  // namespace remat::detail
