// Constants serve the globals of another translation unit, whichever is initialized first: they are built by the
// compiler.
#include <gtest/gtest.h>

#include <remat/policy/parse.hpp>

namespace {

using namespace remat::policy;

constinit const Policy by_default;
constinit const Policy with_node{&detail::leaf<detail::Kind::dots>};

const Policy combined = save_dot_except_logits | offload(dots & !batched) | any_name;
const Policy parsed = parse("save_dot_except_logits | offload(dots & !batched) | names(*)");
const Verdict early = combined(SlotInfo{.op = "linear", .dot = true});
const std::string text = to_string(parsed);

TEST(Globals, AreReadyInInitializers) {
  EXPECT_EQ(by_default, everything);
  EXPECT_EQ(with_node, dots);
  EXPECT_EQ(combined, parsed);
  EXPECT_EQ(early, Verdict::offload);
  EXPECT_EQ(text, "save_dot_except_logits | offload(dots & !batched) | names(*)");
}

}  // namespace
