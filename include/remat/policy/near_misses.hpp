// Spelling help for policies; it lies in core, for parameters and files give it too.
#pragma once

#include <remat/core/near_misses.hpp>

namespace remat { inline namespace REMAT_ABI { namespace policy {

using remat::detail::did_you_mean;
using remat::detail::edit_distance;
using remat::detail::joined;
using remat::detail::near_misses;

}}}  // namespace remat::policy
