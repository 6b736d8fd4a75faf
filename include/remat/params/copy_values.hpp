// Values of one registry for another of the same paths.
#pragma once

#include <algorithm>
#include <remat/params/registry.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Gives every parameter of `to` the value that `from` has at its path; nothing else changes. An `Error`, before any
/// value changes, unless both have the same paths, each with one type and shape.
template <class = void>
void copy_values(const ParameterRegistry& from, const ParameterRegistry& to) {
  const auto sources = from.entries(), targets = to.entries();
  const auto refuse_missing = [](const auto& some, const auto& others, const char* what) {
    for (const auto& entry : some)
      require(std::any_of(others.begin(), others.end(), [&](const auto& other) { return other->path == entry->path; }),
              "copy_values: ", entry->path, " is in ", what, " only; build both models alike");
  };
  refuse_missing(sources, targets, "the registry that is copied from");
  refuse_missing(targets, sources, "the registry that is copied to");
  std::vector<AnyTensor> values;
  std::vector<ParameterUseGuard> uses;
  for (std::size_t i = 0; i < sources.size(); ++i) {  // both are in order of path
    const AnyTensor &value = sources[i]->value, &old = targets[i]->value;
    require(value.dtype == old.dtype && value.shape == old.shape, "copy_values: ", sources[i]->path, " is ",
            name_of(value.dtype), value.shape, " here, ", name_of(old.dtype), old.shape, " there");
    const auto use = sources[i]->used(ParameterUse::read);
    uses.push_back(targets[i]->used(ParameterUse::write));
    require(!targets[i]->matrix, "copy_values: ", targets[i]->path,
            " is read as it is stored and cannot be written to");
    values.push_back(sources[i]->matrix ? sources[i]->numbers() : sources[i]->numbers().copied());
  }
  for (std::size_t i = 0; i < targets.size(); ++i) targets[i]->value = std::move(values[i]);
}

}}  // namespace remat
