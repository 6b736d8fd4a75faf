// Memory that ends: the program's own operator new and aligned_alloc, which fail when a test says so.
#pragma once

namespace remat_test {

/// From now on the n-th allocation fails, counted from 1, and none after it. 0: none does.
void fail_allocation(long n);
/// How many there were since `fail_allocation`.
long count_allocations();
/// Did the one that was to fail come?
bool has_failed();

}  // namespace remat_test
