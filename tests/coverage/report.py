"""Says what the tests of a build for coverage have reached: ./run coverage.

  python3 report.py LINES.json FAILED_CHECKS [--lines TEXT]

LINES.json is gcovr's, FAILED_CHECKS what tests/coverage/remat/core/error.hpp wrote. Prints the part of each room's lines
that ran, then every check whose failure no test has seen: `require(` that always held, `fail(` and `throw` that never ran.
Those that none can see, by OUT_OF_REACH, are not among them. Headers that no test includes are named. Ends with 1 below 92 % of all lines or 97 % of those of io.

  --lines   prints the numbers of lines that did not run, of the headers whose path holds TEXT
"""

import argparse
import collections
import json
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBRARY = os.path.join("include", "remat")
BARS = {"all": 92, "io": 97}
# Nothing of it runs but what ends the lives of locals when something is thrown. Some versions of gcovr leave it out.
BARE = re.compile(r"[\s{};)]*(else\s*)?(//.*)?")
# A call of the library's own function, no member and no declaration.
CHECK = re.compile(r"(?<![\w.>])(?<!void )(require|fail|throw)\b\s*(?=\(|\w|;)")
# Checks that no test can break, by their header and what they hold, each with its reason.
OUT_OF_REACH = {
    ("autodiff/backward.hpp", "lies before its region and is not held"): "the engine's own account of what a replay reads",
    ("autodiff/backward.hpp", "cannot be replayed; save its results"): "refused before, when the region closes",
    ("autodiff/recording.hpp", "an operand's value is gone"): "a Var holds its value as long as ops are recorded",
    ("autodiff/recorded_program.hpp", "more than 2^31 values"): "2^31 of them are above 100 GiB of slots",
    ("io/file_hash.hpp", "bad_alloc"): "malloc of libxxhash fails for want of 576 bytes",
    ("text/bpe.hpp", "is too long to encode"): "a word of 4 GiB",
    ("text/make_tokenizer.hpp", "has too many tokens"): "2^31 of them are 64 GiB of strings",
}


def headers():
    for folder, _, names in sorted(os.walk(os.path.join(ROOT, LIBRARY))):
        for name in sorted(names):
            if name.endswith(".hpp"):
                yield os.path.relpath(os.path.join(folder, name), ROOT)


def counts_of_lines(path):
    """By header, {line: how often it ran}, over all programs and all instances of a template."""
    with open(path) as file:
        report = json.load(file)
    counts = collections.defaultdict(lambda: collections.defaultdict(int))
    for each in report["files"]:
        for line in each["lines"]:
            if not line.get("gcovr/noncode"):
                counts[each["file"]][line["line_number"]] += max(0, line["count"])
    for header, lines in counts.items():
        with open(os.path.join(ROOT, header)) as file:
            text = file.read().split("\n")
        for number in [number for number, count in lines.items() if count == 0]:
            if number > len(text) or BARE.fullmatch(text[number - 1]):
                del lines[number]
    return counts


def failed_checks(path):
    places = collections.defaultdict(set)
    with open(path) as file:
        for line in set(file):
            header, number = line.rstrip().rsplit(":", 1)
            places[os.path.relpath(header, ROOT)].add(int(number))
    return places


def checks(header):
    """Of each: its word, its first line and its last, by the parentheses, and what is written there."""
    with open(os.path.join(ROOT, header)) as file:
        text = file.read()
    code = re.sub(r'"(\\.|[^"\\\n])*"|//[^\n]*', lambda found: re.sub(r"[^\n]", " ", found.group()), text)
    for found in CHECK.finditer(code):
        end, depth = found.end(), 0
        while found.group(1) != "throw" and end < len(code):
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
            if depth == 0:
                break
        yield found.group(1), code.count("\n", 0, found.start()) + 1, code.count("\n", 0, end) + 1, text[found.start():end + 99]


def out_of_reach(header, text):
    return any(header.endswith(name) and part in text for name, part in OUT_OF_REACH)


def unseen(header, counts, failed):
    """The first lines of checks that no test saw fail. A `fail(` of a lambda in a template is passed over: gcov 12 counts
    no line of it."""
    for word, first, last, text in checks(header):
        if out_of_reach(header, text):
            continue
        lines = range(first, last + 1)
        if word == "require":
            is_seen = any(line in failed for line in lines)
        else:
            is_seen = not any(line in counts for line in lines) or any(counts.get(line, 0) for line in lines)
        if not is_seen:
            yield word, first


def runs(numbers):
    """1, 2, 3, 7 as 1-3 7."""
    parts = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("counts")
    parser.add_argument("failed")
    parser.add_argument("--lines")
    asked = parser.parse_args()
    counts, failed = counts_of_lines(asked.counts), failed_checks(asked.failed)
    rooms = collections.defaultdict(lambda: [0, 0])
    missing, places, of_all = [], [], 0
    for header in headers():
        if header.endswith("core/error.hpp"):
            continue
        if header not in counts:
            with open(os.path.join(ROOT, header)) as file:
                if "{" in re.sub(r"//[^\n]*|#[^\n]*", "", file.read()):
                    missing.append(header)
            continue
        ran = [line for line, count in counts[header].items() if count]
        parts = header.split(os.sep)
        for room in ("all", parts[2] if len(parts) > 3 else "umbrellas"):
            rooms[room][0] += len(ran)
            rooms[room][1] += len(counts[header])
        of_all += sum(1 for each in checks(header) if not out_of_reach(header, each[-1]))
        places += [f"{header}:{line}: {word}" for word, line in unseen(header, counts[header], failed[header])]
        if asked.lines is not None and asked.lines in header and len(ran) < len(counts[header]):
            print(f"{header}: {runs(set(counts[header]) - set(ran))}")
    for room, (ran, lines) in sorted(rooms.items(), key=lambda each: each[0] == "all"):
        print(f"{room:12} {ran:6} of {lines:6} lines  {100 * ran / lines:6.2f} %")
    if missing:
        print("no test compiles a line of: " + ", ".join(missing))
    print(f"{of_all - len(places)} of {of_all} checks were seen to fail, {len(OUT_OF_REACH)} are out of reach; not these:")
    print("\n".join(places))
    return 1 if any(100 * rooms[room][0] < bar * rooms[room][1] for room, bar in BARS.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
