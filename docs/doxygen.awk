# Headers as the reference pages show them, each line where it was:
# - remat::Tensor, without the inline namespace;
# - the comment in front of a header is its description, the one behind a member that member's, and of each where there
#   are several: `Index begin = 0, end = 0;  // of rows`;
# - the first description between ///@{ and ///@} is that of all members there: Doxygen's own groups come last on a page,
#   which suits only those with a @name;
# - what a folder holds belongs to its topic, see rooms.dox;
# - what says nothing new is left out: `f() &&` beside `f() const&`, inherited constructors.
function flush(  declarators, declarator, type, names, i, count, all) {
  if (held == "") return
  declarator = "[A-Za-z_0-9]+( = [^,;(){}<>]+|\\{[^,}]*\\})?"
  declarators = "^ +[A-Za-z_][A-Za-z_0-9: ]*(<[^,;]*>)? " declarator "(, " declarator ")+;$"
  if (held ~ declarators) {
    for (i = 1; i <= texts; ++i) all = all text[i] " "
    type = held
    sub(/ [A-Za-z_0-9]+( = |[{,]).*/, "", type)
    count = split(substr(held, length(type) + 2, length(held) - length(type) - 2), names, /, /)
    held = type " " names[1] ";" (all != "" ? " /**< " all "*/" : "")
    for (i = 2; i <= count; ++i)
      held = held type " " names[i] ";" (described all != "" ? " /**< " described all "*/" : "")
    print held
    for (i = 2; i <= texts; ++i) print ""
  } else {
    print held (texts ? "  ///< " text[1] : "")
    for (i = 2; i <= texts; ++i) print "///< " text[i]
  }
  held = described = ""
  texts = 0
}
function says_nothing(line) {
  return line ~ /\) && \{.*\}$/ || line ~ /^ +using [A-Za-z_:]+::[A-Za-z_]+;$/ ||
         line ~ /[A-Za-z0-9]&&?\)( noexcept)? = default;$/
}
function indent(line) { return match(line, /[^ ]/) - 1 }
function said(line) {
  sub(/^ *\/\/\/ /, "", line)
  return line " "
}

{ sub(/inline namespace REMAT_ABI \{/, "") }
/^\}\}\}? +\/\/ namespace/ { sub(/\}/, "") }
/^namespace remat / && match(FILENAME, /remat\/[a-z]+\/[a-z_0-9]+\.hpp$/) {
  split(substr(FILENAME, RSTART), part, "/")
  $0 = $0 " /** @addtogroup " part[2] " */ /**@{*/"
}
/^\}+ +\/\/ namespace remat/ && part[2] { $0 = "/**@}*/ " $0 }
NR == 1 && /^\/\/ / { $0 = "/" $0 " @file" }
/^#pragma once/ { has_begun = 1 }
!has_begun && NR > 1 { sub(/^\/\//, "///") }
/\/\/.* al\. / { gsub(/ al\. /, " al.\\ ") }  # no end of a sentence
# What is inside is no part of the reference.
/^namespace (detail|functions|ops) \{/ {
  $0 = "/** @cond */ " $0
  opened = NR
}
/^\}  \/\/ namespace (detail|functions|ops)$/ || (/^\}$/ && NR == opened + 2) { $0 = "} /** @endcond */" }
/^#define REMAT_(ABI|EACH)/ { in_macro = 1 }
in_macro {
  in_macro = /\\$/
  print ""
  next
}
# Policies by the names of JAX and Praxis mean what the phrase book says.
/^    \{"[a-z_0-9]+",/ { entry = "" }
/^    [ {]/ { entry = entry $0 }
/"\},$/ {
  count = split(entry, quoted, "\"")
  meaning[quoted[2]] = quoted[count - 1]
}
/^inline constinit const Policy [a-z_0-9]+\{detail::phrase/ {
  split($5, name, "{")
  $0 = $0 "  ///< " meaning[name[1]]
}

# Comments that go on.
held != "" && texts && /^ +\/\/ / {
  sub(/^ +\/\/ /, "")
  text[++texts] = $0
  next
}
{ flush() }
/^\/\/\/ @name / { is_named = 1 }
is_named && /^\/\/\/@/ {
  is_named = !/\}/
  print
  next
}
/^ *\/\/\/@[{}]/ {
  in_group = /\{/
  group = indent($0)
  shared = described = ""
  is_shared = in_head = 0
  print ""
  next
}
in_group && !is_shared && indent($0) == group && /^ *\/\/\/ / { shared = shared said($0) }
in_group && indent($0) == group && /^ *[A-Za-z\[]/ {
  if (says_nothing($0)) {
    print ""
    next
  }
  is_start = !in_head
  in_head = /^ *(template <|requires )/ && !/[;{}(]$/
  if (is_start && is_shared) {
    print "/** " shared "*/" $0
    next
  }
  is_shared = 1
}
# Members: what is two spaces further in than the struct.
/^ *(struct|class|enum)[^;]*\{$/ {
  scope[++depth] = indent($0)
  described = ""
  print
  next
}
depth && /^ *\}/ && indent($0) == scope[depth] { --depth }
!depth || indent($0) != scope[depth] + 2 {
  print
  next
}
/^ *\/\/\/ / {
  described = described said($0)
  print
  next
}
/^ +[^ \/]/ {
  if (says_nothing($0) && described == "" && !/operator==/) {
    print ""
    next
  }
  if (/operator==\(.*\) = default;$/) $0 = $0 "  // member by member"
  held = $0
  if (match(held, / +\/\/ /)) {
    text[++texts] = substr(held, RSTART + RLENGTH)
    held = substr(held, 1, RSTART - 1)
  }
  next
}
{
  described = ""
  print
}
END { flush() }
