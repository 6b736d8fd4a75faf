// Promise: docs/nested_regions.md tells the truth. Its program is the one below, and its tables are what that prints.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <iterator>
#include <remat/autodiff/report.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/params/registry.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace remat;

// page: example
Var<float> example(Tape& tape, const Var<float>& x, const Parameter<float>& w) {
  return tape.checkpoint(policy::names("a"), [&] {  // region 0
    const auto outer = tape.layer("outer");
    const auto c = tape.checkpoint(policy::nothing, [&] {  // region 1
      const auto first = tape.layer("outer/first");
      const auto b = checkpoint_name(sin(x), "b");
      const auto a = checkpoint_name(cos(b), "a");
      return checkpoint_name(square(a), "c");
    });
    const auto f = tape.checkpoint(policy::dots, [&] {  // region 2
      const auto second = tape.layer("outer/second");
      const auto d = checkpoint_name(linear(c, w), "d");
      const auto e = checkpoint_name(sin(d), "e");
      return checkpoint_name(cos(e), "f");
    });
    return checkpoint_name(square(f), "y");
  });
}
// page: end
// page: recursion
Var<float> chain(Tape& tape, const Var<float>& x, int n) {
  if (n == 1) return sin(x);
  if (n == 2) return sin(sin(x));
  const auto half = tape.checkpoint(policy::nothing, [&] { return chain(tape, x, n / 2); });
  return chain(tape, half, n / 2);
}
// page: end

std::string read(const std::string& path) {
  std::ifstream file(std::string(REMAT_SOURCE_DIR) + "/" + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The text between `begin` and `end`, both left out.
std::string between(const std::string& text, const std::string& begin, const std::string& end) {
  const std::size_t from = text.find(begin);
  if (from == std::string::npos) return {};
  const std::size_t start = from + begin.size();
  return text.substr(start, text.find(end, start) - start);
}

/// The block of the page under the line `<!-- name -->` must be `text`.
void expect_on_page(const std::string& name, const std::string& language, const std::string& text) {
  const std::string page = read("docs/nested_regions.md");
  const std::string on_page = between(page, "<!-- " + name + " -->\n```" + language + "\n", "```\n");
  EXPECT_TRUE(on_page == text) << "docs/nested_regions.md: the block below <!-- " << name << " --> should be\n" << text;
}

/// One step of the example, traced, up to backward.
class NestedRegionsPage : public testing::Test {
 protected:
  NestedRegionsPage() {
    w_ = (parameters_ / "linear").parameter<float>("w", {64, 64}, init::constant(0.01));
    const auto x = tape_.input(Tensor<float>({64, 64}, 0.3F), {.wants_gradient = true});
    y_ = example(tape_, x, w_);
    loss_ = sum(y_);
  }
  const Program& program() const { return tape_.program(); }
  /// The values that carry a letter.
  std::vector<SlotId> letters() const {
    std::vector<SlotId> slots;
    for (SlotId slot = 0; slot < static_cast<SlotId>(program().slots.size()); ++slot)
      if (program().slot(slot).labels >= 0) slots.push_back(slot);
    return slots;
  }
  std::string letter(SlotId slot) const { return program().describe(slot).labels.front(); }

  ParameterRegistry parameters_{1};
  Parameter<float> w_;
  Tape tape_{{.trace = true}};
  Var<float> y_, loss_;
};

TEST_F(NestedRegionsPage, PrintsItsPrograms) {
  const std::string source = read("tests/promises/nested_regions_page_test.cpp");
  expect_on_page("example", "cpp", between(source, "// page: example\n", "// page: end\n"));
  expect_on_page("recursion", "cpp", between(source, "// page: recursion\n", "// page: end\n"));
}

TEST_F(NestedRegionsPage, PrintsTheTape) {
  std::ostringstream text;
  text << tape_;
  expect_on_page("tape", "text", text.str());
}

TEST_F(NestedRegionsPage, PrintsWhatIsHeldAfterForward) {
  tape_.backward(loss_);
  std::ostringstream text;
  text << saved_residuals(tape_);
  expect_on_page("held", "text", text.str());
}

// Each level reads some values; on entering one, what the levels around it still need is at hand as well.
TEST_F(NestedRegionsPage, PrintsWhatIsAtHand) {
  Program& p = tape_.program();
  const auto at_hand = [&p](const std::vector<std::int32_t>& levels, SlotId slot) {
    const std::int32_t end = levels.back() < 0 ? p.node_count() : p.region(levels.back()).node_end;
    for (const std::int32_t level : levels)
      for (const Need& need : level_needs(p, level))
        if (need.slot == slot && need.reader < end) return true;
    return false;
  };
  std::ostringstream text;
  const auto line = [&text](const std::vector<std::string>& cells) {
    std::string row;
    for (const std::string& cell : cells) row += cell + std::string(18 - cell.size(), ' ');
    text << row.substr(0, row.find_last_not_of(' ') + 1) << '\n';
  };
  line({"value", "after forward", "entering outer", "entering second", "entering first"});
  for (const SlotId slot : letters()) {
    std::vector<std::string> cells{letter(slot) + " = " + std::string(p.describe(slot).op)};
    bool before = true;
    for (const std::vector<std::int32_t>& levels : {std::vector{-1}, {-1, 0}, {-1, 0, 2}, {-1, 0, 1}}) {
      const bool now = at_hand(levels, slot);
      cells.emplace_back(!now ? "-" : before ? "kept" : "recomputed");
      before = now;
    }
    line(cells);
  }
  expect_on_page("at hand", "text", text.str());
}

// What really ran, by the trace: each op of the example is the only one of its name in its layer.
TEST_F(NestedRegionsPage, PrintsTheOrderOfBackward) {
  tape_.backward(loss_);
  std::ostringstream text;
  std::string phase;
  for (const TraceSlice& slice : tape_.trace()) {
    if (slice.category == "forward" || slice.name == "sum") continue;
    const auto slots = letters();
    const auto made = std::find_if(slots.begin(), slots.end(), [&](SlotId slot) {
      const SlotInfo info = program().describe(slot);
      return info.op == slice.name && info.layer_path == slice.layer_path;
    });
    ASSERT_NE(made, slots.end()) << slice.name;
    const std::string now = slice.category + " in " + slice.layer_path;
    if (now != phase)
      text << (phase.empty() ? "" : "\n") << std::left << std::setw(26) << now << letter(*made);
    else
      text << ", " << letter(*made);
    phase = now;
  }
  text << '\n';
  expect_on_page("order", "text", text.str());
}

TEST_F(NestedRegionsPage, PrintsTheRecursion) {
  std::ostringstream text;
  text << " ops   replayed   held values   peak values   without regions\n";
  for (const int n : {4, 8, 16, 32}) {
    const auto stats = [&](const auto& step) {
      Tape tape;
      const auto x = tape.input(Tensor<float>({64, 64}, 0.3F), {.wants_gradient = true});
      tape.backward(sum(step(tape, x)));
      return tape.stats();
    };
    const TapeStats nested = stats([n](Tape& tape, const auto& x) { return chain(tape, x, n); });
    const TapeStats plain = stats([n](Tape&, auto x) {
      for (int i = 0; i < n; ++i) x = sin(x);
      return x;
    });
    const std::size_t value = 64 * 64 * sizeof(float);
    text << std::setw(4) << n << std::setw(11) << nested.ops_replayed << std::setw(14) << nested.saved_bytes / value
         << std::setw(14) << nested.peak_bytes / value << std::setw(18) << plain.peak_bytes / value << '\n';
  }
  expect_on_page("recursion table", "text", text.str());
}

}  // namespace
