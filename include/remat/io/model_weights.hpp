// Which tensor of a file goes into which parameter, and in which layout.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <remat/io/gguf.hpp>
#include <remat/io/load_options.hpp>
#include <remat/io/safetensors_shards.hpp>
#include <remat/kernels/quantized/int8_rows.hpp>
#include <remat/kernels/quantized/nf4_blocks.hpp>
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
  bool is_linear = transposed;  // of a linear, which may be quantized when it is read; embeddings and heads may not
  bool always_numbers = false;  // what reads it cannot read a matrix as it is stored
  double excess = 0;            // what each number of the file is greater by than ours, of vectors: 1 where a norm
                                // multiplies by 1 + weight and the file holds that
  Index qkv_heads = 0, qkv_groups = 0;  // outputs of query, key and value in one, as in `kernels::RowOrder`

  /// Of the outputs.
  kernels::RowOrder order() const { return {paired_heads, qkv_heads, qkv_groups}; }
};

/// A parameter, and the tensor that it is in a file.
template <class T>
struct NamedWeight {
  Parameter<T> parameter{};  // of the model
  std::string name{};        // in the file
  WeightLayout layout{};     // there
};

/// The tensors of a file that stays open meanwhile, whatever its format.
template <class T>
struct WeightSource {
  std::string path{};                                                   // of the file
  std::map<std::string, Shape> shapes{};                                // of each tensor, by name
  std::function<void(const std::string&, std::span<T>, Index)> read{};  // elements from one on, row-major, converted
  /// A tensor of two axes as it lies in the file, its rows in our order; the file stays open as long as the matrix.
  std::function<std::shared_ptr<const FrozenMatrix>(const std::string&, const WeightLayout&)> matrix{};
};
/// Those of a GGUF file.
template <class T>
WeightSource<T> weights_of(const GgufFile& file) {
  WeightSource<T> source{
      file.path(), {}, [&file](const auto& name, auto to, Index first) { file.read_into(name, to, first); }, {}};
  for (const GgufTensor& tensor : file.tensors()) source.shapes.emplace(tensor.name, tensor.shape);
  source.matrix = [&file](const std::string& name, const WeightLayout& layout) {
    return file.matrix(name, layout.order());
  };
  return source;
}
/// Those of safetensors files.
template <class T>
WeightSource<T> weights_of(const SafetensorsShards& file) {
  WeightSource<T> source{
      file.path(), {}, [&file](const auto& name, auto to, Index first) { file.read_into(name, to, first); }, {}};
  for (const std::string& name : file.names()) source.shapes.emplace(name, file.info(name).shape);
  source.matrix = [&file](const std::string& name, const WeightLayout& layout) {
    return file.file_of(name).matrix(name, layout.order());
  };
  return source;
}

/// The weights of a model in a file: first all are named, then they are read at once.
template <class T>
class ModelWeights {
 public:
  /// Of a file that stays open as long as this.
  explicit ModelWeights(WeightSource<T> source) : source_(std::move(source)) {}

  /// Does the file have a tensor of this name?
  bool contains(const std::string& name) const { return source_.shapes.contains(name); }
  ///@{
  /// `parameter` is the tensor `name`.
  void add(const Parameter<T>& parameter, std::string name, const WeightLayout& layout = {}) {
    add({parameter, std::move(name), layout});
  }
  void add(NamedWeight<T> weight) { weights_.push_back(std::move(weight)); }
  ///@}
  /// A tensor that says nothing about the model.
  void ignore(std::string name) { ignored_.insert(std::move(name)); }
  /// Where there is a tensor `name` beside that of `parameter`, it must hold the same values.
  void add_copy(const Parameter<T>& parameter, std::string name) {
    if (contains(name)) copies_.push_back({parameter, std::move(name), {}});
  }
  /// Reads all of them. An `Error` lists every tensor that is missing, of another shape or left over; then nothing has
  /// changed.
  void load(const LoadOptions& options = {}) const {
    check();
    for (const Weight& weight : weights_)
      if (options.matrices == Matrices::numbers || weight.layout.always_numbers || weight.parameter.shape().rank() != 2)
        read(weight);
      else
        keep(weight, options.matrices);
    for (const Weight& copy : copies_) compare(copy);
  }

 private:
  using Weight = NamedWeight<T>;

  void check() const {
    std::string faults;
    const auto fault = [&](const std::string& text) { faults += (faults.empty() ? "" : "; ") + text; };
    std::set<std::string> known = ignored_;
    for (const std::vector<Weight>* all : {&weights_, &copies_})
      for (const Weight& weight : *all) {
        known.insert(weight.name);
        Shape wanted = weight.parameter.shape();
        if (weight.layout.transposed) wanted = {wanted[1], wanted[0]};
        const auto found = source_.shapes.find(weight.name);
        if (found == source_.shapes.end())
          fault(weight.name + " is missing, " + weight.parameter.path() + " needs it");
        else if (found->second != wanted)
          fault(weight.name + " has shape " + found->second.to_string() + ", " + weight.parameter.path() + " needs " +
                wanted.to_string());
      }
    for (const auto& [name, shape] : source_.shapes)
      if (!known.contains(name)) fault(remat::detail::quoted(name) + " belongs to no parameter");
    require(faults.empty(), source_.path, ": ", faults);
  }

  void read(const Weight& weight) const {
    ParameterEntry& entry = *weight.parameter.entry();
    const auto use = entry.used(ParameterUse::write);
    T* const to = reinterpret_cast<T*>(entry.writable());
    const Shape& shape = weight.parameter.shape();
    const kernels::RowOrder order = weight.layout.order();
    if (!weight.layout.transposed && order.is_ours()) {
      source_.read(weight.name, std::span<T>(to, static_cast<std::size_t>(shape.size())), 0);
      if (weight.layout.excess != 0)
        for (Index i = 0; i < shape.size(); ++i) to[i] -= static_cast<T>(weight.layout.excess);
      return;
    }
    const Index inputs = weight.layout.transposed ? shape[0] : 1, outputs = shape.back();
    constexpr Index strip = 64;  // rows of the file that are decoded at one time
    std::vector<T> rows(static_cast<std::size_t>(std::min(strip, outputs) * inputs));
    for (Index begin = 0; begin < outputs; begin += strip) {
      const Index count = std::min(strip, outputs - begin);
      source_.read(weight.name, std::span<T>(rows.data(), static_cast<std::size_t>(count * inputs)), begin * inputs);
      std::array<Index, strip> columns{};
      for (Index i = 0; i < count; ++i) columns[static_cast<std::size_t>(i)] = order.ours(begin + i, outputs);
      parallel_for(inputs, row_grain(count), [&, from = rows.data()](Index first, Index end) {
        for (Index k = first; k < end; ++k)
          for (Index i = 0; i < count; ++i)
            to[k * outputs + columns[static_cast<std::size_t>(i)]] = from[i * inputs + k];
      });
    }
  }
  void keep(const Weight& weight, Matrices how) const {
    std::shared_ptr<const FrozenMatrix> matrix = source_.matrix(weight.name, weight.layout);
    if (weight.layout.is_linear) {
      const auto rows = [&from = *matrix](Index first, Index count, float* to) { from.read(first, count, to); };
      if (how == Matrices::int8)
        matrix = std::make_shared<const kernels::Int8Rows>(matrix->rows(), matrix->columns(), rows);
      else if (how == Matrices::nf4)
        matrix = std::make_shared<const kernels::Nf4Blocks>(matrix->rows(), matrix->columns(), rows);
    }
    const auto use = weight.parameter.entry()->used(ParameterUse::write);
    weight.parameter.entry()->keep_as(std::move(matrix), weight.layout.transposed);
  }
  void compare(const Weight& copy) const {
    const ParameterEntry& entry = *copy.parameter.entry();
    const Shape& shape = copy.parameter.shape();
    const Index piece = std::max<Index>(1, shape.back());
    std::vector<T> row(static_cast<std::size_t>(piece)), stored(entry.matrix ? row.size() : 0);
    std::vector<float> floats(stored.size());
    const Tensor<T> value = entry.matrix ? Tensor<T>() : copy.parameter.value();
    for (Index at = 0; at < shape.size(); at += piece) {
      source_.read(copy.name, row, at);
      const T* ours = value.data() + at;
      if (entry.matrix) {
        entry.matrix->read(at / piece, 1, floats.data());
        std::copy(floats.begin(), floats.end(), stored.begin());
        ours = stored.data();
      }
      require(std::memcmp(row.data(), ours, static_cast<std::size_t>(piece) * sizeof(T)) == 0, source_.path, ": ",
              copy.name, " is said to be ", copy.parameter.path(), " again, but holds other values");
    }
  }

  WeightSource<T> source_;
  std::vector<Weight> weights_, copies_;
  std::set<std::string> ignored_;
};

}}}  // namespace remat::io
