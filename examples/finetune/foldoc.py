#!/usr/bin/env python3
"""Writes questions and answers to fine-tune on: the entries of FOLDOC, the Free On-line Dictionary of Computing.

    apt-get download dict-foldoc && dpkg -x dict-foldoc_*.deb foldoc
    examples/finetune/foldoc.py foldoc/usr/share/dictd/foldoc.dict.dz foldoc/usr/share/dictd/foldoc.index foldoc.jsonl

Each line is {"messages": [{"role": "user", "content": "What is TERM?"}, {"role": "assistant", "content": ...}]}, the
first paragraph of an entry without its marks. FOLDOC is (C) Denis Howe, http://foldoc.org/, under the GNU Free
Documentation License; what is made of it is, too.
"""

import argparse
import gzip
import json
import re
import string

# Digits of the index, the most significant first.
DIGITS = {c: i for i, c in enumerate(string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/")}
SHORTEST, LONGEST = 40, 600  # characters of an answer


def number(digits):
    value = 0
    for digit in digits:
        value = 64 * value + DIGITS[digit]
    return value


def entries(dictionary, index):
    """(term, paragraphs) of each entry once, in the order of the dictionary."""
    with gzip.open(dictionary) as file:
        data = file.read()
    places = set()
    with open(index, encoding="utf-8") as file:
        for line in file:
            word, offset, length = line.rstrip("\n").split("\t")[:3]
            if not word.startswith("00-database"):
                places.add((number(offset), number(length)))
    for offset, length in sorted(places):
        text = data[offset : offset + length].decode("utf-8")
        paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
        # The first lines are the term and what else it is called; definitions are indented.
        term = paragraphs[0].split("\n")[0].strip()
        yield term, [p for p in paragraphs[1:] if p.startswith("   ")]


ADDRESS = r"(?:https?|ftp|mailto|news|telnet):[^{}]*|[^{}()]*\.html?"
# What stands before the definition: the number of a first meaning, [origin], /pronunciation/, <category>.
MARK = re.compile(
    r"""^(?: 1\.[ ] | \[[^\[\]]*\] | <[A-Za-z][^<>@]*>
          | (?: (?:or|also|rarely|sometimes|\([a-z]+\)) ,? [ ] )* /[^/ ][^/]*/ (?=[ ,;.(<]|$) )[ ,;.]*""",
    re.VERBOSE,
)


def cleaned(paragraph):
    text = " ".join(paragraph.split())
    # {term}, {term (address)} or {(address)}: a cross-reference is its term.
    text = re.sub(r"\{([^{}]*?)\s*\((" + ADDRESS + r")\)\}", lambda link: link[1] or link[2], text)
    text = re.sub(r"[{}]", "", text)
    text = re.sub(r"\s*<[^<>\s]+@[^<>]+>", "", text)  # addresses of mail
    while MARK.match(text):
        text = MARK.sub("", text)
    text = re.sub(r"^(\([^()]*\)) (?:/[^/ ][^/]*/|<[^<>@]*>) ", r"\1 ", text)  # or behind (abbreviation)
    text = re.sub(r"\s*\(\d{4}-\d{2}(?:-\d{2})?\)", "", text)
    text = re.sub(r"__(.+?)__", r"\1", text)
    return " ".join(text.split())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dictionary", help="foldoc.dict.dz")
    parser.add_argument("index", help="foldoc.index")
    parser.add_argument("output", help="the file of JSON Lines to write")
    arguments = parser.parse_args()
    counts = dict.fromkeys(["written", "without a definition", "unfinished", "too short", "too long"], 0)
    with open(arguments.output, "w", encoding="utf-8") as output:
        for term, paragraphs in entries(arguments.dictionary, arguments.index):
            # Those of the category "introduction" are about the dictionary.
            is_definition = paragraphs and "<introduction>" not in paragraphs[0]
            answer = cleaned(paragraphs[0]) if is_definition else ""
            if not answer:
                counts["without a definition"] += 1
            elif answer[-1] not in ".!?)\"'":  # goes on in the next paragraph
                counts["unfinished"] += 1
            elif len(answer) < SHORTEST:
                counts["too short"] += 1
            elif len(answer) > LONGEST:
                counts["too long"] += 1
            else:
                counts["written"] += 1
                messages = [{"role": "user", "content": f"What is {term}?"}, {"role": "assistant", "content": answer}]
                output.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
