// "bqd,bkd->bqk": what einsum is asked for, and the matrices that this is a product of.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <limits>
#include <remat/core/error.hpp>
#include <remat/core/shape.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// Of `labels` those that are in `others`.
inline std::string common(std::string labels, const std::string& others) {
  std::erase_if(labels, [&](char label) { return others.find(label) == std::string::npos; });
  return labels;
}
/// Of `labels` those that are not in `others`.
inline std::string without(std::string labels, const std::string& others) {
  std::erase_if(labels, [&](char label) { return others.find(label) != std::string::npos; });
  return labels;
}

/// A label for each axis of the operands and of the result, checked against the operands' shapes. Axes of "..." are
/// digits, counted from the last of them.
class EinsumSpec {
 public:
  std::vector<std::string> operands{};
  std::string result{};

  EinsumSpec(const std::string& text, const std::vector<Shape>& shapes) : text_(text) {
    std::string rest = without(text, " ");
    const std::size_t arrow = rest.find("->");
    rule(arrow != std::string::npos, "names no result; end it with -> and the letters of the result");
    result = rest.substr(arrow + 2);
    rest.replace(arrow, std::string::npos, ",");
    for (std::size_t comma = 0; (comma = rest.find(',')) != std::string::npos; rest.erase(0, comma + 1))
      operands.push_back(rest.substr(0, comma));
    rule(operands.size() == shapes.size(), "names ", operands.size(), " operands, the call gives ", shapes.size(),
         "; one call takes one or two, longer chains are calls of two in the order that you choose");
    int most = -1;  // axes that "..." stands for
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      std::string& term = operands[i];
      const bool has_dots = term.find("...") != std::string::npos;
      const int unnamed = shapes[i].rank() - static_cast<int>(term.size()) + (has_dots ? 3 : 0);
      rule(has_dots ? unnamed >= 0 : unnamed == 0, '"', term, "\" is not one letter for each axis of ", shapes[i]);
      if (has_dots) most = std::max(most, unnamed);
      term = labels(term, unnamed);
      for (int axis = 0; axis < shapes[i].rank(); ++axis) {
        const char label = term[static_cast<std::size_t>(axis)];
        Index& length = lengths_[static_cast<std::size_t>(label)];
        rule(length < 0 || length == shapes[i][axis], name(label), " has length ", length, " in ", shapes[0], " and ",
             shapes[i][axis], " in ", shapes[i]);
        length = shapes[i][axis];
      }
    }
    rule((result.find("...") == std::string::npos) == (most < 0), "... stands in the operands or in the result alone");
    result = labels(result, most);
    for (const char label : result) rule(length(label) >= 0, name(label), " of the result is in no operand");
  }

  Index length(char label) const { return lengths_[static_cast<std::size_t>(label)]; }
  Shape shape(const std::string& labels) const {
    Shape shape;
    for (const char label : labels) shape.push_back(length(label));
    return shape;
  }
  /// Do axes in these two orders hold the same elements in the same order?
  bool is_same(std::string a, std::string b) const {
    const auto is_one = [this](char label) { return length(label) == 1; };
    std::erase_if(a, is_one);
    std::erase_if(b, is_one);
    return a == b;
  }

 private:
  template <class... Parts>
  void rule(bool holds, const Parts&... parts) const {
    require(holds, "einsum: \"", text_, "\": ", parts...);
  }
  static std::string name(char label) {
    if (label >= '0' && label <= '9') return "axis -" + std::to_string(label - '0' + 1) + " of ...";
    return std::string("'") + label + "'";
  }
  std::string labels(std::string term, int unnamed) const {
    const std::size_t dots = term.find("...");
    if (dots != std::string::npos) term.erase(dots, 3);
    for (std::size_t i = 0; i < term.size(); ++i) {
      rule(std::isalpha(static_cast<unsigned char>(term[i])) != 0 && term[i] > 0, "'", term[i], "' is no letter");
      rule(term.find(term[i], i + 1) == std::string::npos, "'", term[i], "' stands twice in \"", term,
           "\"; einsum takes no diagonals");
    }
    if (dots != std::string::npos)
      for (int i = 0; i < unnamed; ++i) term.insert(dots, 1, static_cast<char>('0' + i));
    return term;
  }

  std::string text_;
  std::array<Index, 128> lengths_ = [] {
    std::array<Index, 128> none{};
    none.fill(-1);
    return none;
  }();
};

/// Two operands as matrices: a [batch, rows, inner] or, transposed, [batch, inner, rows], and so on; labels of each.
struct EinsumOrder {
  std::string batch, rows, columns, inner;
  bool transposed_a = false, transposed_b = false;
  double copied = std::numeric_limits<double>::infinity();  // elements of operands and result that must be rearranged

  std::string a() const { return batch + (transposed_a ? inner + rows : rows + inner); }
  std::string b() const { return batch + (transposed_b ? columns + inner : inner + columns); }
  std::string y() const { return batch + rows + columns; }

  /// Of the orders that axes have in the operands and in the result those that copy least.
  EinsumOrder(const EinsumSpec& spec, const std::string& a, const std::string& b) {
    const std::string &y = spec.result, both = common(a, b);
    for (const std::string& of_batch : {common(y, both), common(both, y), common(common(b, a), y)})
      for (const std::string& of_rows : {without(common(y, a), b), without(a, b)})
        for (const std::string& of_columns : {without(common(y, b), a), without(b, a)})
          for (const std::string& of_inner : {without(both, y), without(common(b, a), y)}) {
            if (copied > 0) consider({of_batch, of_rows, of_columns, of_inner}, spec, a, b);
          }
  }

 private:
  EinsumOrder(std::string of_batch, std::string of_rows, std::string of_columns, std::string of_inner)
      : batch(std::move(of_batch)),
        rows(std::move(of_rows)),
        columns(std::move(of_columns)),
        inner(std::move(of_inner)) {}
  void consider(EinsumOrder other, const EinsumSpec& spec, const std::string& a, const std::string& b) {
    other.transposed_a = spec.is_same(a, other.batch + other.inner + other.rows);
    other.transposed_b = spec.is_same(b, other.batch + other.columns + other.inner);
    const auto copies = [&](const std::string& from, const std::string& to) {
      double elements = spec.is_same(from, to) ? 0 : 1;
      for (const char label : from) elements *= static_cast<double>(spec.length(label));
      return elements;
    };
    other.copied = copies(a, other.a()) + copies(b, other.b()) + copies(other.y(), spec.result);
    if (other.copied < copied) *this = std::move(other);
  }
};

}}}  // namespace remat::detail
