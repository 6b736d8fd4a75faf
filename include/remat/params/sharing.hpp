// What the layers that gave one shared_weight_id asked for: all of them must ask for the same.
#pragma once

#include <algorithm>
#include <exception>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <remat/core/error.hpp>
#include <remat/core/near_misses.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// For each id the layers that gave it, in order, and the parameters that each asked for, named from the layer on.
class SharedUses {
 public:
  using Names = std::set<std::string>;

  template <class = void>
  void ask(const std::string& id, const std::string& layer, const std::string& name);
  template <class = void>
  void take_back(const std::string& id, const std::string& layer, const std::string& name);
  /// `layer` is built: an `Error` unless it asked for what the layers built before it did.
  template <class = void>
  void complete(const std::string& id, const std::string& layer);
  void forget_completion(const std::string& id, const std::string& layer) {
    if (Use* const found = find(id, layer)) found->built.reset();
  }
  /// An `Error` unless all layers of each id asked for the same, be they complete or not. Those that asked for nothing
  /// so far do not count.
  template <class = void>
  void check();

 private:
  struct Use {
    std::string layer;
    Names asked{};
    std::optional<Names> built{};  // what had been asked for when the layer was complete
  };

  template <class = void>
  Use* find(const std::string& id, const std::string& layer);
  template <class = void>
  Use& use(const std::string& id, const std::string& layer);
  // Says the same whichever was built first.
  template <class = void>
  static void require_alike(const std::string& id, const std::string& a, const Names& of_a, const std::string& b,
                            const Names& of_b);

  std::map<std::string, std::vector<Use>> uses_;
  bool is_checked_ = true;
};

template <class>
void SharedUses::ask(const std::string& id, const std::string& layer, const std::string& name) {
  use(id, layer).asked.insert(name);
  is_checked_ = false;
}

template <class>
void SharedUses::take_back(const std::string& id, const std::string& layer, const std::string& name) {
  if (Use* const found = find(id, layer)) found->asked.erase(name);
  is_checked_ = false;
}

template <class>
void SharedUses::complete(const std::string& id, const std::string& layer) {
  const Use& mine = use(id, layer);
  for (const Use& other : uses_[id])
    if (&other != &mine && other.built) {
      require_alike(id, other.layer, *other.built, layer, mine.asked);
      break;
    }
  use(id, layer).built = mine.asked;
}

template <class>
void SharedUses::check() {
  if (is_checked_) return;
  for (const auto& [id, layers] : uses_) {
    const Use* first = nullptr;
    for (const Use& each : layers) {
      if (each.asked.empty()) continue;
      if (first == nullptr) first = &each;
      require_alike(id, first->layer, first->asked, each.layer, each.asked);
    }
  }
  is_checked_ = true;
}

template <class>
SharedUses::Use* SharedUses::find(const std::string& id, const std::string& layer) {
  const auto layers = uses_.find(id);
  if (layers == uses_.end()) return nullptr;
  const auto found =
      std::find_if(layers->second.begin(), layers->second.end(), [&](const Use& u) { return u.layer == layer; });
  return found != layers->second.end() ? &*found : nullptr;
}

template <class>
SharedUses::Use& SharedUses::use(const std::string& id, const std::string& layer) {
  Use* const found = find(id, layer);
  return found != nullptr ? *found : uses_[id].emplace_back(Use{layer});
}

template <class>
void SharedUses::require_alike(const std::string& id, const std::string& a, const Names& of_a, const std::string& b,
                               const Names& of_b) {
  if (of_a == of_b) return;
  if (b < a) return require_alike(id, b, of_b, a, of_a);
  const auto only = [](const std::string& layer, const Names& own, const Names& others) {
    std::vector<std::string> names;
    std::set_difference(own.begin(), own.end(), others.begin(), others.end(), std::back_inserter(names));
    return names.empty() ? "" : "; only " + layer + " has " + joined(names);
  };
  fail(a, " and ", b, " share shared_weight_id \"", id, "\" but are unlike layers", only(a, of_a, of_b),
       only(b, of_b, of_a), "; give one of them another id");
}

/// How to take back what layers under construction have made and asked for. It is noted before it is done, so that no
/// exception comes between; to take back what was not done, or twice, does nothing and throws nothing.
class Construction {
 public:
  void note(std::function<void()> undo) {
    if (depth_ > 0) undo_.push_back(std::move(undo));
  }

  /// While a layer is under construction. If an exception ends it, nothing of the layer is left.
  class Guard {
   public:
    explicit Guard(Construction& construction)
        : construction_(construction), begin_(construction.undo_.size()), exceptions_(std::uncaught_exceptions()) {
      ++construction_.depth_;
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard() {
      auto& undo = construction_.undo_;
      if (std::uncaught_exceptions() > exceptions_)
        for (; undo.size() > begin_; undo.pop_back()) undo.back()();
      if (--construction_.depth_ == 0) undo.clear();
    }

   private:
    Construction& construction_;
    std::size_t begin_;
    int exceptions_;
  };

 private:
  std::vector<std::function<void()>> undo_;
  int depth_ = 0;
};

}}}  // namespace remat::detail
