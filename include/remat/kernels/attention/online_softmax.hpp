// The softmax of scores that come tile by tile (Milakov and Gimelshein 2018).
#pragma once

#include <cstring>
#include <limits>
#include <remat/kernels/attention/tile.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// Scores [keys, group] become exp(score - new maximum); updates the lanes' maxima and sums, and says in `decay` by
/// what earlier contexts shrink. A lane that has seen no key keeps maximum -infinity, and exp(-infinity - 0) is 0,
/// never NaN. `weighty`, unless it is null, counts the keys of each lane whose weight is not 0.
template <class T>
void online_softmax(T* scores, Index keys, T* maximum, T* sum, T* decay, T* weighty) {
  using V = typename Vector<T>::type;
  constexpr int width = Vector<T>::width, group = Vector<T>::group;
  T shift[group];
  for (int j = 0; j < group; j += width) {
    V top;
    std::memcpy(&top, maximum + j, sizeof(V));
    for (Index i = 0; i < keys; ++i) {
      V score;
      std::memcpy(&score, scores + i * group + j, sizeof(V));
      top = score > top ? score : top;
    }
    std::memcpy(shift + j, &top, sizeof(V));
  }
  for (int j = 0; j < group; ++j) {
    const T top = shift[j];
    shift[j] = top == -std::numeric_limits<T>::infinity() ? T{0} : top;
    decay[j] = fast_exp(maximum[j] - shift[j]);
    maximum[j] = top;
  }
  for (Index i = 0; i < keys; ++i) {
    for (int j = 0; j < group; ++j) scores[i * group + j] = fast_exp(scores[i * group + j] - shift[j]);
  }
  for (int j = 0; j < group; j += width) {
    V total{};
    for (Index i = 0; i < keys; ++i) {
      V weight;
      std::memcpy(&weight, scores + i * group + j, sizeof(V));
      total += weight;
    }
    for (int lane = 0; lane < width; ++lane) sum[j + lane] = sum[j + lane] * decay[j + lane] + total[lane];
  }
  if (weighty == nullptr) return;
  for (int j = 0; j < group; j += width) {
    V some{};
    for (Index i = 0; i < keys; ++i) {
      V weight;
      std::memcpy(&weight, scores + i * group + j, sizeof(V));
      some += weight > V{} ? V{} + T{1} : V{};
    }
    for (int lane = 0; lane < width; ++lane)
      weighty[j + lane] = (decay[j + lane] == 0 ? T{0} : weighty[j + lane]) + some[lane];
  }
}

}}}  // namespace remat::kernels::attention
