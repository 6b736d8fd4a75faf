// Memory that ends: the program's own operator new and aligned_alloc, which fail when a test says so.
#pragma once

namespace remat_test {

/// From now on the n-th allocation fails, counted from 1, and none after it, or all of them if memory `stays_out`. 0:
/// none does.
void fail_allocation(long n, bool stays_out = false);
/// How many there were since `fail_allocation`.
long count_allocations();
/// Did the one that was to fail come?
bool has_failed();

}  // namespace remat_test
