// Spelling help, and which names a policy answers for.
#include <gtest/gtest.h>

#include <remat/policy/name_check.hpp>
#include <remat/policy/phrase_book.hpp>

namespace {

using namespace remat::policy;
using Strings = std::vector<std::string>;

TEST(NearMisses, DistanceIsLevenshteins) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("abc", ""), 3U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("sitting", "kitten"), 3U);
  EXPECT_EQ(edit_distance("flaw", "lawn"), 2U);
  EXPECT_EQ(edit_distance("ffn1", "ffn1"), 0U);
}

TEST(NearMisses, NearestFirstAndAtMostThree) {
  const Strings names = {"ffn1_gate", "ffn2", "ffn1", "out_proj", "ffn3", "context"};
  EXPECT_EQ(near_misses("outproj", names), (Strings{"out_proj"}));
  EXPECT_EQ(near_misses("ffn", names), (Strings{"ffn2", "ffn1", "ffn3"}));
  EXPECT_EQ(near_misses("contxet", names), (Strings{"context"}));
  EXPECT_EQ(near_misses("zebra", names), Strings{});
  EXPECT_EQ(near_misses("x", {"y", ""}), Strings{});
  EXPECT_EQ(did_you_mean("ffn", names), "; did you mean \"ffn2\" or \"ffn1\" or \"ffn3\"?");
  EXPECT_EQ(did_you_mean("zebra", names), "");
}

TEST(WrittenNames, AreTheUsersOwn) {
  EXPECT_EQ(written_names(dots & !batched), Strings{});
  EXPECT_EQ(written_names(save_out_proj | save_context), Strings{});
  EXPECT_EQ(written_names(save_out_proj | (names("b", "a") & !offload(names("c", "b")))), (Strings{"b", "a", "c"}));
  EXPECT_EQ(written_names(names("*", "x") | any_name), Strings{"x"});
  EXPECT_EQ(written_names(save_any_names_but_these("ffn1") | ops("sin")), Strings{"ffn1"});
  EXPECT_EQ(written_names(save_and_offload_only_these_names({"a"}, {"b"})), (Strings{"a", "b"}));
}

TEST(WrittenOps, AreTheUsersOwn) {
  EXPECT_EQ(written_ops(dots | names("ffn1") | save_dot_only), Strings{});
  EXPECT_EQ(written_ops((!ops("sin", "tanh")) & (offload(ops("*", "sin")) | lossy::int8(ops("exp")))),
            (Strings{"sin", "tanh", "*", "exp"}));  // "*" is any label, but no op
}

TEST(UnmatchedOp, SaysWhatExists) {
  EXPECT_EQ(unmatched_op_message("liner", {"linear", "add", "linear"}),
            "policy: no op of this step is named \"liner\"; did you mean \"linear\"? Ops of this step: add, linear.");
  EXPECT_EQ(unmatched_op_message("zebra", {"add"}),
            "policy: no op of this step is named \"zebra\". Ops of this step: add.");
}

TEST(UnmatchedName, SaysWhatExists) {
  EXPECT_EQ(unmatched_name_message("outproj", {"out_proj", "ffn1", "context", "ffn1"}),
            "policy: no value of this step is named \"outproj\"; did you mean \"out_proj\"? Names that exist: context, "
            "ffn1, out_proj.");
  EXPECT_EQ(unmatched_name_message("zebra", {"ffn1"}),
            "policy: no value of this step is named \"zebra\". Names that exist: ffn1.");
  EXPECT_EQ(unmatched_name_message("zebra", {}),
            "policy: no value of this step is named \"zebra\". No value has a name: give one with checkpoint_name(x, "
            "\"name\").");
}

TEST(UnmatchedName, LogitsNeverExist) {
  EXPECT_EQ(unmatched_name_message("logits", {"context"}),
            "policy: no value of this step is named \"logits\": logits never exist: those of attention "
            "(\"context\" is its output) and those of the head stay inside fused ops. Names that exist: context.");
}

}  // namespace
