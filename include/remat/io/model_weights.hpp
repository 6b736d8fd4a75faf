// Which tensor of a file goes into which parameter, and in which layout.
#pragma once

#include <algorithm>
#include <array>
#include <remat/io/gguf.hpp>
#include <remat/params/parameter.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// How a tensor lies in its file.
struct WeightLayout {
  bool transposed = false;  // [outputs, inputs], where ours is [inputs, outputs]
  Index paired_heads = 0;   // outputs of so many heads, those that rotary turns together side by side: 2 i and 2 i + 1
                            // of a head, where ours are i and i + H / 2; 0: as ours
};

/// The weights of a model in a file: first all are named, then they are read at once.
template <class T>
class ModelWeights {
 public:
  /// Of a file that stays open as long as this.
  explicit ModelWeights(const GgufFile& file) : file_(file) {}

  /// `parameter` is the tensor `name`.
  void add(const Parameter<T>& parameter, std::string name, const WeightLayout& layout = {}) {
    weights_.push_back({parameter, std::move(name), layout});
  }
  /// Reads all of them. An `Error` lists every tensor that is missing, of another shape or left over; then nothing has
  /// changed.
  void load() const {
    check();
    for (const Weight& weight : weights_) read(weight);
  }

 private:
  struct Weight {
    Parameter<T> parameter;
    std::string name;
    WeightLayout layout;
  };

  void check() const {
    std::vector<std::string> faults;
    std::set<std::string_view> known;
    for (const Weight& weight : weights_) {
      known.insert(weight.name);
      const GgufTensor* const tensor = file_.find_tensor(weight.name);
      Shape wanted = weight.parameter.shape();
      if (weight.layout.transposed) wanted = {wanted[1], wanted[0]};
      if (tensor == nullptr)
        faults.push_back(weight.name + " is missing, " + weight.parameter.path() + " needs it");
      else if (tensor->shape != wanted)
        faults.push_back(weight.name + " has shape " + tensor->shape.to_string() + ", " + weight.parameter.path() +
                         " needs " + wanted.to_string());
    }
    for (const GgufTensor& tensor : file_.tensors())
      if (!known.contains(tensor.name)) faults.push_back(detail::quoted(tensor.name) + " belongs to no parameter");
    std::string all;
    for (const std::string& fault : faults) all += (all.empty() ? "" : "; ") + fault;
    require(faults.empty(), file_.path(), ": ", all);
  }

  void read(const Weight& weight) const {
    ParameterEntry& entry = *weight.parameter.entry();
    const auto use = entry.used(ParameterUse::write);
    T* const to = reinterpret_cast<T*>(entry.writable());
    const Shape& shape = weight.parameter.shape();
    if (!weight.layout.transposed && weight.layout.paired_heads == 0) {
      file_.read_into(weight.name, std::span<T>(to, static_cast<std::size_t>(shape.size())));
      return;
    }
    const Index inputs = weight.layout.transposed ? shape[0] : 1, outputs = shape.back();
    const Index head = weight.layout.paired_heads > 0 ? outputs / weight.layout.paired_heads : 0;
    constexpr Index strip = 64;  // rows of the file that are decoded at one time
    std::vector<T> rows(static_cast<std::size_t>(std::min(strip, outputs) * inputs));
    for (Index begin = 0; begin < outputs; begin += strip) {
      const Index count = std::min(strip, outputs - begin);
      file_.read_into(weight.name, std::span<T>(rows.data(), static_cast<std::size_t>(count * inputs)), begin * inputs);
      std::array<Index, strip> columns{};
      for (Index i = 0; i < count; ++i) {
        const Index row = begin + i, within = head > 0 ? row % head : 0;
        columns[static_cast<std::size_t>(i)] = head > 0 ? row - within + within % 2 * (head / 2) + within / 2 : row;
      }
      parallel_for(inputs, row_grain(count), [&, from = rows.data()](Index first, Index end) {
        for (Index k = first; k < end; ++k)
          for (Index i = 0; i < count; ++i)
            to[k * outputs + columns[static_cast<std::size_t>(i)]] = from[i * inputs + k];
      });
    }
  }

  const GgufFile& file_;
  std::vector<Weight> weights_;
};

}}}  // namespace remat::io
