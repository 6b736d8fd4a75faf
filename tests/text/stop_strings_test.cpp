// Nothing of a stop string is ever shown, and all before it is, however the text is cut into pieces.
#include <gtest/gtest.h>

#include <remat/text/stop_strings.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using remat::text::StopStrings;

std::string shown(const std::string& text, std::size_t piece, const std::vector<std::string>& stops) {
  StopStrings watch(stops);
  std::string all;
  for (std::size_t at = 0; at < text.size() && !watch.found(); at += piece) all += watch.push(text.substr(at, piece));
  return all + watch.finish();
}

TEST(StopStrings, EndTheTextWhereTheFirstBegins) {
  for (std::size_t piece = 1; piece < 20; ++piece) {
    EXPECT_EQ(shown("one two three two", piece, {"two"}), "one ") << piece;
    EXPECT_EQ(shown("one two three", piece, {"three", "two t"}), "one ") << piece;
    EXPECT_EQ(shown("aaab", piece, {"aab"}), "a") << piece;
    EXPECT_EQ(shown("User: hi\n\nUser: you", piece, {"\nUser:"}), "User: hi\n") << piece;
    EXPECT_EQ(shown("no stop, but a begin: tw", piece, {"two"}), "no stop, but a begin: tw") << piece;
    EXPECT_EQ(shown("nothing to look for", piece, {}), "nothing to look for") << piece;
  }
}

TEST(StopStrings, ShowWhatCannotBecomeOneAtOnce) {
  StopStrings watch({"stop"});
  EXPECT_EQ(watch.push("last "), "last ");
  EXPECT_EQ(watch.push("st"), "");
  EXPECT_EQ(watch.push("ay"), "stay");
  EXPECT_EQ(watch.push("sto"), "");
  EXPECT_EQ(watch.push("p!"), "");
  EXPECT_TRUE(watch.found());
  EXPECT_EQ(watch.push("more"), "");
  EXPECT_EQ(watch.finish(), "");
  remat_test::expect_error({"one is empty"}, [] { StopStrings none({"a", ""}); });
}

}  // namespace
