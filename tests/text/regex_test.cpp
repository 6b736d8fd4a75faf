// Patterns mean what Oniguruma makes of them, where PCRE2 would mean something else.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <remat/text/regex.hpp>
#include <string>

using namespace remat;
using namespace remat_test;

namespace {

// The matches in brackets.
std::string marked(const char* pattern, const std::string& text) {
  std::string result;
  std::size_t done = 0;
  text::detail::Regex(pattern).each_match(text, [&](std::size_t begin, std::size_t end) {
    result += text.substr(done, begin - done) + "[" + text.substr(begin, end - begin) + "]";
    done = end;
  });
  return result + text.substr(done);
}

TEST(Regex, ReadsClassesAsOniguruma) {
  EXPECT_EQ(marked(R"(\s+)", "a \xC2\xA0\xC2\x85\xE1\xA0\x8E b"),
            "a[ \xC2\xA0\xC2\x85]\xE1\xA0\x8E[ ]b");  // not U+180E
  EXPECT_EQ(marked(R"([^\sx]+)", "a\xE1\xA0\x8E xb"), "[a\xE1\xA0\x8E] x[b]");
  EXPECT_EQ(marked(R"(\w+)", "e\xCC\x81_1\xE2\x85\xA7\xE2\x93\x90-\xC2\xB2\xE2\x82\x82"),
            "[e\xCC\x81_1\xE2\x85\xA7\xE2\x93\x90]-[\xC2\xB2]\xE2\x82\x82");  // of superscripts those of Latin-1
  EXPECT_EQ(marked(R"([^\w]+)", "a\xC2\xB2-"), "a[\xC2\xB2-]");
  EXPECT_EQ(marked(R"(\v)", "a\n\x0B"), "a\n[\x0B]");
  EXPECT_EQ(marked(R"(\p{Han}+)", "\xE4\xB8\xAD\xE3\x80\x81\xE4\xB8\xAD"),
            "[\xE4\xB8\xAD]\xE3\x80\x81[\xE4\xB8\xAD]");  // the comma is used with Chinese, but is of no script
  EXPECT_EQ(marked(R"(\p{^Letter}\P{L}\p{Lu})", "a12Bc"), "a[12B]c");
  EXPECT_EQ(marked(R"(\bthe\b)", "the then the"), "[the] then [the]");
  EXPECT_EQ(marked(R"(^a|b$)", "ab\nab"), "[a][b]\n[a][b]");  // at each line
  EXPECT_EQ(marked(R"(\u0041|(?i:x))", "AXx"), "[A][X][x]");
}

TEST(Regex, TakesNoEmptyMatchBehindAnother) { EXPECT_EQ(marked("x*", "axxb"), "[]a[xx]b[]"); }

TEST(Regex, RefusesWhatNobodyChecked) {
  for (const char* const pattern : {R"(\h)", R"(\R)", R"((\d)\1)", "(?m:a)", "(?<name>a)", "[a[b]]", "[a&&b]",
                                    "[[:alpha:]]", "a{1,3}+", "a{,3}", R"([\W])", R"(\pL)", "\\"})
    expect_error({"the regular expression", "which is not supported"}, [&] { text::detail::Regex{pattern}; });
  expect_error({"cannot be compiled"}, [] { text::detail::Regex{"(a"}; });
  expect_error({"cannot be compiled"}, [] { text::detail::Regex{R"(\p{Klingon})"}; });
}

}  // namespace
