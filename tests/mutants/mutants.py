"""Makes small mistakes in the library, one at a time, and says which of them the tests notice.

  python3 mutants.py [--only NUMBER|TEXT] [--list] [--check]

mutants.toml names, for each, the line that is changed, the one test that must fail, and its cases. The headers and tests
are copied into a scratch folder, one mutant is applied, that test alone is compiled (by $CXX, or g++) and run. Prints a
line for each: killed, SURVIVED, or an ERROR where the line is no longer there once, the test does not compile, or no case
has that name. Ends with 1 unless all that ran were killed.

  --only    one of them by its number, or those whose name or file holds TEXT
  --list    prints the list
  --check   applies each and compiles nothing: a second for all of them
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLAGS = ["-std=c++20", "-O1", "-march=native", "-fopenmp", f'-DREMAT_SOURCE_DIR="{ROOT}"', "-isystem", "/usr/include/eigen3"]
LIBRARIES = ["-Wl,--as-needed", "-lgtest", "-lgtest_main", "-lpthread", "-lxxhash", "-lpcre2-8", "-lutf8proc"]


class Mistake(Exception):
    """Of the list: what it says is not so."""


def mutants():
    with open(os.path.join(ROOT, "tests/mutants/mutants.toml"), "rb") as file:
        return tomllib.load(file)["mutant"]


def changed(mutant):
    """The text of its file with the mistake in it."""
    with open(os.path.join(ROOT, "include/remat", mutant["file"])) as file:
        text = file.read()
    count = text.count(mutant["old"])
    if count != 1:
        raise Mistake(f"{mutant['file']} has {count} times: {mutant['old'].strip()}")
    if mutant["old"] == mutant["new"]:
        raise Mistake("changes nothing")
    test = os.path.join(ROOT, "tests", mutant["test"])
    if not os.path.isfile(test):
        raise Mistake(f"there is no test {mutant['test']}")
    return text.replace(mutant["old"], mutant["new"])


def is_killed(mutant, scratch):
    """Does the test notice it?"""
    path = os.path.join(scratch, "include/remat", mutant["file"])
    with open(path) as file:
        before = file.read()
    program = os.path.join(scratch, "test")
    try:
        with open(path, "w") as file:
            file.write(changed(mutant))
        command = [os.environ.get("CXX", "g++"), *FLAGS, "-I", "include", "-I", "tests",
                   os.path.join("tests", mutant["test"]), *LIBRARIES, "-o", program]
        built = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if built.returncode != 0:
            errors = [line for line in built.stderr.splitlines() if "error" in line]
            raise Mistake("does not compile: " + (errors + [built.stderr])[0])
    finally:
        with open(path, "w") as file:
            file.write(before)
    environment = dict(os.environ, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive")
    command = [program, "--gtest_filter=" + mutant["filter"], "--gtest_brief=1"]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=300)
    except subprocess.TimeoutExpired:
        return True
    if re.search(r"^\[==========\] 0 tests|no test case", run.stdout, re.MULTILINE):
        raise Mistake(f"no case of {mutant['test']} fits {mutant['filter']}")
    return run.returncode != 0


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--only")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    chosen = list(enumerate(mutants(), 1))
    if asked.only is not None:
        chosen = [(number, each) for number, each in chosen
                  if asked.only == str(number) or
                  (not asked.only.isdigit() and (asked.only in each["name"] or asked.only in each["file"]))]
        if not chosen:
            sys.exit(f"mutants: --only {asked.only} is none of them")
    if asked.list:
        for number, each in chosen:
            print(f"{number:3}  {each['file']:38} {each['name']}")
        return 0
    counts = {"killed": 0, "SURVIVED": 0, "ERROR": 0, "applies": 0}
    with tempfile.TemporaryDirectory(prefix="remat_mutants_") as scratch:
        if not asked.check:
            shutil.copytree(os.path.join(ROOT, "include"), os.path.join(scratch, "include"))
            shutil.copytree(os.path.join(ROOT, "tests"), os.path.join(scratch, "tests"),
                            ignore=shutil.ignore_patterns("golden", "seeds"))
        for number, each in chosen:
            start, why = time.monotonic(), ""
            try:
                if asked.check:
                    changed(each)
                    outcome = "applies"
                else:
                    outcome = "killed" if is_killed(each, scratch) else "SURVIVED"
            except Mistake as mistake:
                outcome, why = "ERROR", f": {mistake}"
            counts[outcome] += 1
            seconds = "" if asked.check else f" ({time.monotonic() - start:.0f} s, {each['test']} {each['filter']})"
            if outcome != "applies":
                print(f"{outcome:8} {number:3}  {each['name']}{seconds}{why}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    return 1 if counts["SURVIVED"] + counts["ERROR"] else 0


if __name__ == "__main__":
    sys.exit(main())
