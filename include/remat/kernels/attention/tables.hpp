// What is looked up instead of computed for every pair: angles and buckets of distances.
#pragma once

#include <remat/kernels/attention/rotary.hpp>
#include <remat/kernels/attention/score_change.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// What all threads of one call share: tables in its scratch.
struct Tables {
  RotaryTable rotary;
  RelativeBuckets buckets;

  template <class T>
  Tables(const AttentionProblem<T>& p, ScratchArena& arena) : rotary(p, arena), buckets(p, arena) {}
  template <class T>
  void fill(const AttentionProblem<T>& p) const {
    rotary.fill(p);
    buckets.fill();
  }
};

}}}  // namespace remat::kernels::attention
