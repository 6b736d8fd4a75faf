// What a region's function returns: Vars, alone or in a tuple, a range or an optional.
#pragma once

#include <remat/autodiff/var.hpp>
#include <tuple>
#include <type_traits>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace detail {

template <class X>
concept TupleLike = requires {
  std::tuple_size<X>::value;
};

/// Calls `visit(var)` for each Var in what a region's function returned: a Var, a tuple, a range, an optional.
template <class X, class Visit>
void for_each_var(const X& x, Visit&& visit) {
  if constexpr (std::is_base_of_v<AnyVar, X>) {
    visit(x);
  } else if constexpr (TupleLike<X>) {
    std::apply([&](const auto&... each) { (for_each_var(each, visit), ...); }, x);
  } else if constexpr (requires {
                         x.begin();
                         x.end();
                       }) {
    for (const auto& each : x) for_each_var(each, visit);
  } else if constexpr (requires {
                         x.has_value();
                         *x;
                       }) {
    if (x.has_value()) for_each_var(*x, visit);
  } else {
    static_assert(std::is_arithmetic_v<X>, "a region returns Vars, alone or in a tuple, a range or an optional");
  }
}

/// What a region's function returns.
template <class Fn>
auto results_of(Fn&& fn) {
  constexpr bool is_void = std::is_void_v<std::invoke_result_t<Fn>>;
  static_assert(!is_void, "a region returns the Vars that are used after it; this function returns nothing");
  if constexpr (!is_void)
    return std::forward<Fn>(fn)();
  else
    return 0;  // so that the sentence above is the only error
}

}}}  // namespace remat::detail
