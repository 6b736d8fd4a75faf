// Numbers of OpenMP threads that a test chooses.
#pragma once

#include <omp.h>

namespace remat_test {

/// Sets the number of threads until the end of the scope.
class Threads {
 public:
  explicit Threads(int count) { omp_set_num_threads(count); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_ = omp_get_max_threads();
};

}  // namespace remat_test
