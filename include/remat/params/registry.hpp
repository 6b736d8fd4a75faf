// All parameters of a model under their paths, and the scopes in which layers ask for them.
#pragma once

#include <algorithm>
#include <functional>
#include <iomanip>
#include <map>
#include <memory>
#include <remat/core/near_misses.hpp>
#include <remat/core/parallel.hpp>
#include <remat/params/path_pattern.hpp>
#include <remat/params/registry_state.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

class Scope;

/// Owns every parameter. A path names one parameter; sharing by id is resolved here, when layers are built. Reading it
/// is an `Error` while two layers have one shared_weight_id and did not ask for the same parameters. A copy has
/// parameters of its own under the same paths; layers, scopes and optimizers stay with the original, and follow it when
/// it is moved.
class ParameterRegistry {
 public:
  /// `seed` decides the initial values, together with each parameter's path.
  explicit ParameterRegistry(std::uint64_t seed = 0) : state_(detail::new_registry_state(seed)) {}
  /// Values, gradients, what is frozen, users and ids are copied; from then on the two know nothing of each other.
  ParameterRegistry(const ParameterRegistry& other) : state_(std::make_shared<State>(other.state().copy())) {}
  ParameterRegistry(ParameterRegistry&&) noexcept = default;
  /// There is none from a registry that goes on, for layers hold parameters of this one: see `copy_values`.
  ParameterRegistry& operator=(const ParameterRegistry&) = delete;
  /// Takes over another's parameters; layers built from this one keep the old ones.
  ParameterRegistry& operator=(ParameterRegistry&&) noexcept = default;

  /// The same parameters, not a copy: for what names them, as an optimizer does, wherever the registry is moved.
  std::shared_ptr<const ParameterRegistry> handle() const {
    return std::shared_ptr<const ParameterRegistry>(new ParameterRegistry(shared_state()));
  }

  /// The scope in which a layer asks for its parameters: `parameters / "decoder"`.
  Scope operator/(std::string_view name) const;

  /// Every parameter once, in order of path.
  template <class = void>
  std::vector<std::shared_ptr<ParameterEntry>> entries() const;
  /// The parameter at `path`; an `Error` when there is none, which lists near paths, or when its type is another.
  template <class T>
  Parameter<T> at(const std::string& path) const {
    state().uses.check();
    const auto found = state().entries.find(path);
    require(found != state().entries.end(), "parameters: no parameter at ", path, near(path));
    require(found->second->value.dtype == dtype_of<T>(), path, ": holds ", name_of(found->second->value.dtype),
            ", asked for ", name_of(dtype_of<T>()));
    return Parameter<T>(found->second);
  }
  /// Number of values, shared ones counted once.
  Index count() const {
    return total<Index>([](const ParameterEntry& entry) { return entry.value.size(); });
  }
  /// The same of those that are not frozen.
  Index trainable_count() const {
    return total<Index>([](const ParameterEntry& entry) { return entry.is_frozen ? 0 : entry.value.size(); });
  }
  /// What the registry holds now: values, casts to bfloat16 that tapes have made, and `grad_bytes()`.
  std::size_t bytes() const { return total<std::size_t>(&ParameterEntry::value_bytes) + grad_bytes(); }
  /// Of mapped files that values are read from as they are stored: no memory of the process's own.
  std::size_t mapped_bytes() const { return total<std::size_t>(&ParameterEntry::mapped_bytes); }
  /// Of gradients alone: those that a backward or `grad()` has made and nothing has freed; zero ones are kept for
  /// reuse.
  std::size_t grad_bytes() const { return total<std::size_t>(&ParameterEntry::grad_bytes); }
  /// Freezes every parameter whose path `pattern` fits: `*` stands for any run of characters, '/' among them, `?` for
  /// one. Its gradient is dropped, and tapes that first use it from now on make none: no product, no residual for it,
  /// no update, while gradients flow on through it. A tape that has used it before computes what it recorded and drops
  /// the gradient at the end. Optimizer state stays for when it is unfrozen. Returns how many fit; an `Error` lists
  /// near paths when none does.
  Index freeze(std::string_view pattern) const { return set_frozen(pattern, true, "freeze"); }
  /// The reverse: tapes that first use them from now on make gradients.
  Index unfreeze(std::string_view pattern) const { return set_frozen(pattern, false, "unfreeze"); }
  /// Every gradient is zero from now on.
  void zero_grad() const {
    for (const auto& entry : entries()) {
      const auto use = entry->used(ParameterUse::train);
      entry->zero_grad();
    }
  }
  /// Shared ids with the layer paths that use each.
  const std::map<std::string, std::vector<std::string>>& shared_ids() const& { return state().ids; }
  std::map<std::string, std::vector<std::string>> shared_ids() && { return state().ids; }
  /// Ids that only one layer uses: most often a typing mistake.
  template <class = void>
  std::vector<std::string> single_user_ids() const;

 private:
  friend class Scope;
  using State = detail::RegistryState;
  template <class Number, class Of>
  Number total(Of&& of) const {
    Number sum = 0;
    for (const auto& entry : entries()) sum += std::invoke(of, *entry);
    return sum;
  }
  template <class = void>
  std::vector<std::string> paths() const;
  template <class = void>
  std::string near(const std::string& path) const;
  template <class = void>
  Index set_frozen(std::string_view pattern, bool is_frozen, const char* what) const;
  explicit ParameterRegistry(std::shared_ptr<State> state) : state_(std::move(state)) {}
  const std::shared_ptr<State>& shared_state() const {
    require(state_ != nullptr, "parameters: used after they were moved to another registry");
    return state_;
  }
  State& state() const { return *shared_state(); }

  std::shared_ptr<State> state_;
};

template <class>
std::vector<std::shared_ptr<ParameterEntry>> ParameterRegistry::entries() const {
  state().uses.check();
  std::vector<std::shared_ptr<ParameterEntry>> all;
  for (const auto& [path, entry] : state().entries) all.push_back(entry);
  return all;
}

template <class>
Index ParameterRegistry::set_frozen(std::string_view pattern, bool is_frozen, const char* what) const {
  std::vector<std::shared_ptr<ParameterEntry>> found = entries();
  std::erase_if(found, [&](const auto& entry) { return !detail::fits(pattern, entry->path); });
  require(!found.empty(), "parameters: ", what, "(\"", pattern, "\") fits no parameter",
          detail::nearest_paths(pattern, paths()));
  std::vector<ParameterUseGuard> uses;  // all that can fail, before the first changes
  uses.reserve(found.size());
  for (const auto& entry : found) {
    require(is_frozen || !entry->matrix, "parameters: ", what, "(\"", pattern, "\") fits ", entry->path,
            ", which is read as it is stored and cannot be trained; load it as numbers");
    uses.push_back(entry->used(ParameterUse::write));
  }
  for (const auto& entry : found) {
    entry->is_frozen = is_frozen;
    if (is_frozen) entry->drop_grad();
  }
  return static_cast<Index>(found.size());
}

template <class>
std::string ParameterRegistry::near(const std::string& path) const {
  return state().entries.empty() ? "; none has been made yet" : detail::nearest_names(path, paths());
}

template <class>
std::vector<std::string> ParameterRegistry::single_user_ids() const {
  std::vector<std::string> single;
  for (const auto& [id, users] : state().ids)
    if (users.size() == 1) single.push_back(id);
  return single;
}

template <class>
std::vector<std::string> ParameterRegistry::paths() const {
  std::vector<std::string> all;
  for (const auto& [path, entry] : state().entries) all.push_back(path);
  return all;
}

/// A place in the tree of parameters. `path()` names the parameters made here; `use_path()` names the layer that
/// uses them, and differs from it inside a shared scope. Copies are places in the same registry.
class Scope {
 public:
  /// The scope `name` inside this one; an `Error` unless it is one word without '/'.
  Scope operator/(std::string_view name) const { return inside(name); }
  /// This scope for an empty id; else `shared/<id>` at the root, the same for every layer that gives the id. All of
  /// them must ask for the same parameters: a `LayerScope` finds out when the layer is built, the registry when it is
  /// read. An `Error` when the id is used inside itself.
  template <class = void>
  Scope shared_as(const std::string& id) const;
  /// This scope for a model that is about to be read from a file: parameters that are made here have no value, and take
  /// no memory, until they are given one. Using them before is an `Error`.
  Scope without_values() const {
    Scope scope = *this;
    scope.has_values_ = false;
    return scope;
  }
  /// The parameter `name` of this scope, made on the first asking. Asking again is allowed from a shared scope, with
  /// the same shape, type and initializer; anything else is an `Error` that names both askers.
  template <class T>
  Parameter<T> parameter(std::string_view name, const Shape& shape, const Initializer& initializer) const {
    return Parameter<T>(entry(std::string(name), dtype_of<T>(), shape, initializer, &fill<T>));
  }

  /// Where the parameters made here lie; inside a shared scope "shared/" and its id.
  const std::string& path() const& { return path_; }
  std::string path() && { return std::move(path_); }
  /// The place of the layer that uses them: what errors, reports and policies call it.
  const std::string& use_path() const& { return use_path_; }
  std::string use_path() && { return std::move(use_path_); }

 private:
  friend class ParameterRegistry;
  friend class LayerScope;
  struct Share {
    std::string id, layer;
  };
  using Fill = void (*)(AnyTensor&, const Initializer&, const RandomStream&);

  template <class = void>
  Scope inside(std::string_view name) const;
  explicit Scope(std::shared_ptr<ParameterRegistry::State> state) : state_(std::move(state)) {}

  static std::string join(const std::string& path, std::string_view name) {
    return path.empty() ? std::string(name) : path + "/" + std::string(name);
  }
  template <class T>
  static void fill(AnyTensor& value, const Initializer& initializer, const RandomStream& stream) {
    T* data = reinterpret_cast<T*>(value.mutable_data());
    parallel_for(value.size(), row_grain(16), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) data[i] = static_cast<T>(initializer(stream, i));
    });
  }
  template <class = void>
  std::shared_ptr<ParameterEntry> entry(const std::string& name, DType dtype, const Shape& shape,
                                        const Initializer& initializer, Fill fill_with) const;
  // Every layer around that shares by id has asked, for the same only if the others get it from the same place.
  template <class = void>
  void note_shares(const std::string& path, const std::string& user) const;
  // FNV-1a: the same everywhere, unlike std::hash.
  static std::uint64_t hash(std::string_view text) {
    std::uint64_t h = 14695981039346656037ULL;
    for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
    return h;
  }

  std::shared_ptr<ParameterRegistry::State> state_;
  std::string path_, use_path_;
  bool has_values_ = true;     // parameters are given their initial ones
  std::vector<Share> shares_;  // shared ids around this scope and the layers that gave them, outermost first
};

template <class>
std::shared_ptr<ParameterEntry> Scope::entry(const std::string& name, DType dtype, const Shape& shape,
                                             const Initializer& initializer, Fill fill_with) const {
  require(!name.empty(), use_path_, ": a parameter needs a name, got \"\"");
  const std::string path = join(path_, name), user = join(use_path_, name);
  require(initializer.is_valid(), user, ": starts as ", initializer.to_string(),
          "; a deviation or a half width must be >= 0 and finite, a constant a number");
  if (const auto found = state_->entries.find(path); found != state_->entries.end()) {
    const auto& entry = found->second;
    const auto describe = [](DType type, const Shape& s, const Initializer& i) {
      return std::string(name_of(type)) + s.to_string() + " " + i.to_string();
    };
    require(!shares_.empty() && entry->users.front() != path, path, ": the scope ", path_, " is taken already, ",
            entry->users.front(), " owns it; build the second layer or model under another scope (or, for both to ",
            "use the same parameters, give both layers one shared_weight_id)");
    require(entry->value.dtype == dtype && entry->value.shape == shape && entry->initializer == initializer, path, ": ",
            user, " asks for ", describe(dtype, shape, initializer), ", but ", entry->users.front(), " made it as ",
            describe(entry->value.dtype, entry->value.shape, entry->initializer));
    require(std::find(entry->users.begin(), entry->users.end(), user) == entry->users.end(), path,
            ": asked for twice by ", user, "; one layer's parameters need different names");
    state_->construction.note([entry, user] { std::erase(entry->users, user); });
    entry->users.push_back(user);
    note_shares(path, user);
    return entry;
  }
  auto entry = std::make_shared<ParameterEntry>(ParameterEntry{path, {dtype, shape, {}, 0}});
  entry->initializer = initializer;
  const std::size_t bytes = checked_bytes(shape.size(), size_of(dtype), path.c_str());
  if (has_values_) {
    entry->value.storage = pool().allocate(bytes);
    fill_with(entry->value, initializer, {state_->seed ^ hash(path), 0, 0});
  }
  entry->users.push_back(user);
  state_->construction.note([state = state_.get(), path] { state->entries.erase(path); });
  state_->entries.emplace(path, entry);
  note_shares(path, user);
  return entry;
}

template <class>
void Scope::note_shares(const std::string& path, const std::string& user) const {
  for (const Share& share : shares_) {
    std::string name = user.substr(share.layer.size() + 1);
    if (path != join("shared/" + share.id, name)) name += " from " + path;
    state_->construction.note(
        [state = state_.get(), share, name] { state->uses.take_back(share.id, share.layer, name); });
    state_->uses.ask(share.id, share.layer, name);
  }
}

template <class>
Scope Scope::shared_as(const std::string& id) const {
  if (id.empty()) return *this;
  require(id.find('/') == std::string::npos, use_path_, ": shared_weight_id \"", id, "\" must not contain '/'");
  require(std::none_of(shares_.begin(), shares_.end(), [&](const Share& s) { return s.id == id; }), use_path_,
          ": shared_weight_id \"", id, "\" is used inside itself; give the inner layer another id");
  Scope shared = *this;
  shared.path_ = "shared/" + id;
  shared.shares_.push_back({id, use_path_});
  if (const auto found = state_->ids.find(id);
      found == state_->ids.end() ||
      std::find(found->second.begin(), found->second.end(), use_path_) == found->second.end()) {
    state_->construction.note([state = state_.get(), id, layer = use_path_] {
      const auto layers = state->ids.find(id);
      if (layers == state->ids.end()) return;
      std::erase(layers->second, layer);
      if (layers->second.empty()) state->ids.erase(layers);
    });
    state_->ids[id].push_back(use_path_);
  }
  return shared;
}

template <class>
Scope Scope::inside(std::string_view name) const {
  require(!name.empty() && name.find('/') == std::string_view::npos, use_path_.empty() ? "parameters" : use_path_,
          ": a scope's name must be one word, got \"", name, "\"; write scope / \"a\" / \"b\" for two");
  Scope child = *this;
  child.path_ = join(path_, name);
  child.use_path_ = join(use_path_, name);
  return child;
}

/// The scope of a layer while its constructor runs: `where`, or the shared scope of its id. If an exception ends the
/// constructor, the registry forgets what the layer made and asked for.
class LayerScope : private detail::Construction::Guard, public Scope {
 public:
  /// Of a layer that is built in `where`, with the `shared_weight_id` of its config, see `Scope::shared_as`.
  explicit LayerScope(const Scope& where, const std::string& shared_weight_id = {})
      : Guard(where.state_->construction), Scope(where.shared_as(shared_weight_id)), id_(shared_weight_id) {}

  /// The layer has all its parameters: an `Error` that names both layers and what differs unless the layers built
  /// before it with the same id asked for the same ones.
  template <class = void>
  void complete() const;

 private:
  std::string id_;
};

template <class>
void LayerScope::complete() const {
  if (id_.empty()) return;
  state_->construction.note(
      [state = state_.get(), id = id_, layer = use_path_] { state->uses.forget_completion(id, layer); });
  state_->uses.complete(id_, use_path_);
}

inline Scope ParameterRegistry::operator/(std::string_view name) const { return Scope(shared_state()) / name; }

/// One line a parameter: path, shape, count, number of users; shared and frozen ones marked, those that are read as
/// they are stored with the format, those that have an adapter; shared ones counted once. Where some are frozen, the
/// count of the others follows the total.
template <class = void>
std::ostream& operator<<(std::ostream& out, const ParameterRegistry& parameters) {
  std::size_t width = 9;
  for (const auto& entry : parameters.entries()) width = std::max(width, entry->path.size());
  const auto line = [&](std::string_view path, std::string_view shape, const auto& count, std::string_view users) {
    out << std::left << std::setw(static_cast<int>(width) + 2) << path << std::setw(18) << shape << std::right
        << std::setw(12) << count << "  " << users << '\n';
  };
  line("parameter", "shape", "count", "users");
  for (const auto& entry : parameters.entries()) {
    std::string marks;
    const auto mark = [&](const std::string& text) { marks += (marks.empty() ? " (" : ", ") + text; };
    if (entry->users.size() > 1) mark("shared");
    if (entry->is_frozen) mark("frozen");
    if (entry->matrix) mark(entry->matrix->format());
    if (entry->adapter || entry->head_adapter) mark("adapted");
    if (!marks.empty()) marks += ')';
    line(entry->path, entry->value.shape.to_string(), entry->value.size(), std::to_string(entry->users.size()) + marks);
  }
  line("total", "", parameters.count(), "");
  if (const Index trainable = parameters.trainable_count(); trainable != parameters.count())
    line("trainable", "", trainable, "");
  for (const auto& id : parameters.single_user_ids())
    out << "note: shared_weight_id \"" << id << "\" has one user: " << parameters.shared_ids().at(id).front() << '\n';
  return out;
}

}}  // namespace remat
