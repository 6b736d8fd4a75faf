// Values of a JSON file from anyone: each is asked for by its type, and an error says where it is.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <remat/core/error.hpp>
#include <remat/core/near_misses.hpp>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

using Json = nlohmann::json;

/// The value of a file, without names that appear twice in one object and without NUL, which would end it early.
inline Json parse_json(std::string_view text) {
  require(text.find('\0') == std::string_view::npos, "holds a NUL byte");
  std::vector<std::unordered_set<std::string>> names;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    require(depth < 64, "has more than 64 arrays and objects in one another");
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key)
      require(names.back().insert(parsed.get_ref<const std::string&>()).second, "has the name \"",
              parsed.get_ref<const std::string&>().substr(0, 100), "\" twice in one object");
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::exception& error) {
    fail("is not valid JSON: ", std::string_view(error.what()).substr(0, 300));
  }
}

/// The number as Rust's serde_json reads it, digits as an integer and then one product or quotient with a power of ten:
/// a last bit may differ from the nearest double, and decides between two ways to cut a word that are as likely.
inline double as_digits_over_power(double nearest) {
  char text[40];
  const char* const end = std::to_chars(std::begin(text), std::end(text), nearest, std::chars_format::scientific).ptr;
  std::uint64_t digits = 0;
  int exponent = 0;
  bool is_behind_point = false;
  const char* at = text + (nearest < 0 ? 1 : 0);
  for (; at != end && *at != 'e'; ++at) {
    if (*at == '.') {
      is_behind_point = true;
    } else {
      digits = 10 * digits + static_cast<std::uint64_t>(*at - '0');
      exponent -= is_behind_point ? 1 : 0;
    }
  }
  if (at != end) {
    int written = 0;
    std::from_chars(at + (at[1] == '+' ? 2 : 1), end, written);
    exponent += written;
  }
  if (exponent < -22 || exponent > 22) return nearest;
  double power = 1;  // exact
  for (int i = 0; i < std::abs(exponent); ++i) power *= 10;
  const auto number = static_cast<double>(digits);
  return std::copysign(exponent < 0 ? number / power : number * power, nearest);
}

/// A value and the path to it, such as `model/merges[3]`.
class JsonPlace {
 public:
  JsonPlace(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  bool is_null() const { return value_->is_null(); }
  bool is_object() const { return value_->is_object(); }
  bool is_string() const { return value_->is_string(); }

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(path_.empty() ? "the file" : path_, ' ', parts...);
  }

  /// Is there a member that is not null?
  bool has(const char* name) const {
    expect(value_->is_object(), "an object");
    const auto found = value_->find(name);
    return found != value_->end() && !found->is_null();
  }
  /// Is there a member, null or not?
  bool contains(const char* name) const {
    expect(value_->is_object(), "an object");
    return value_->contains(name);
  }
  JsonPlace operator[](const char* name) const {
    expect(value_->is_object(), "an object");
    const auto found = value_->find(name);
    if (found == value_->end()) refuse("lacks the field \"", name, '"');
    return {*found, path_.empty() ? name : path_ + "/" + name};
  }
  JsonPlace operator[](std::size_t index) const {
    expect(value_->is_array() && index < value_->size(), "a longer array");
    return {(*value_)[index], path_ + "[" + std::to_string(index) + "]"};
  }
  std::size_t size() const {
    expect(value_->is_array(), "an array");
    return value_->size();
  }
  /// `f(place)` for each element of an array.
  template <class F>
  void each(F&& f) const {
    for (std::size_t i = 0, count = size(); i < count; ++i) f((*this)[i]);
  }
  /// `f(name, place)` for each member of an object.
  template <class F>
  void each_member(F&& f) const {
    expect(value_->is_object(), "an object");
    for (auto member = value_->begin(); member != value_->end(); ++member)
      f(member.key(), JsonPlace{member.value(), path_ + "[\"" + member.key().substr(0, 60) + "\"]"});
  }
  /// All members that are not null have these names, or some `more`; what we do not know is not passed over.
  void allow_only(std::initializer_list<const char*> names, std::initializer_list<const char*> more = {}) const {
    each_member([&](const std::string& name, const JsonPlace& member) {
      if (member.is_null()) return;
      const auto is_name = [&](const char* known) { return name == known; };
      if (std::none_of(names.begin(), names.end(), is_name) && std::none_of(more.begin(), more.end(), is_name))
        refuse("has the field \"", name.substr(0, 60), "\", which is not supported");
    });
  }

  const std::string& text() const {
    expect(value_->is_string(), "a string");
    return value_->get_ref<const std::string&>();
  }
  bool flag() const {
    expect(value_->is_boolean(), "true or false");
    return value_->get<bool>();
  }
  double number() const {
    expect(value_->is_number(), "a number");
    const auto number = value_->get<double>();
    if (!std::isfinite(number)) refuse("is not finite");
    return as_digits_over_power(number);
  }
  /// An integer in [0, end).
  std::int64_t index(std::int64_t end) const {
    expect(value_->is_number_integer(), "an integer");
    const bool fits = value_->is_number_unsigned() && value_->get<std::uint64_t>() < static_cast<std::uint64_t>(end);
    if (!fits) refuse("is ", value_->dump(), ", not in [0, ", end, ')');
    return static_cast<std::int64_t>(value_->get<std::uint64_t>());
  }
  ///@{
  /// The member, or `otherwise` where there is none.
  bool flag(const char* name, bool otherwise) const { return has(name) ? (*this)[name].flag() : otherwise; }
  std::string text(const char* name, std::string otherwise) const {
    return has(name) ? (*this)[name].text() : std::move(otherwise);
  }
  ///@}

 private:
  void expect(bool condition, const char* what) const {
    if (!condition) refuse("is ", value_->type_name(), ", where ", what, " is expected");
  }

  const Json* value_;
  std::string path_;
};

}}}  // namespace remat::text::detail
