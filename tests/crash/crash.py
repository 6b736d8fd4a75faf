"""Ends training at every system call of its saves, resumes it, and compares with the run that nothing ended.

  python3 crash.py PROGRAM [--random N] [--only NAME]

PROGRAM is train_gpt. Kills are strace's, at each call that changes files; so are full disks and I/O errors. What a power
failure leaves is replayed from the calls of one run: of each beginning of them, once with all names that were changed and
once with those alone that were synced; bytes that were not synced are gone in both. Prints a line for each kind; ends
with 1 when any run did not end with the same bits.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

CHANGING = ["write", "fsync", "rename", "unlink", "unlinkat", "mkdir", "openat"]
FLAGS = ("--layers 1 --dims 16 --heads 2 --context 16 --batch 4 --micro-batches 2 --dropout 0.1 --steps 8 --warmup 2 "
         "--eval-every 4 --eval-batches 1 --sample-length 4 --save-every 2 --keep 2 --threads 1")


class Bench:
    def __init__(self, program, scratch):
        self.program, self.scratch = os.path.abspath(program), scratch
        self.text = os.path.join(scratch, "text.txt")
        with open(self.text, "w") as file:
            file.write("to be, or not to be: that is the question. " * 40)
        self.environment = dict(os.environ, OMP_NUM_THREADS="1", XDG_CACHE_HOME=scratch)
        self.failures, self.runs = [], 0
        self.start("first", background=False)  # what it measures of the machine is kept for the others
        self.whole = self.outcome("first")

    def command(self, out, resume=False, background=True, more=""):
        # With a limit of memory, states are written by the thread that trains. Of a flag given twice, the latter counts.
        pairs = dict(zip(FLAGS.split()[::2], FLAGS.split()[1::2]))
        pairs.update(zip(more.split()[::2], more.split()[1::2]))
        flags = [word for pair in pairs.items() for word in pair]
        return ([self.program, "--data", self.text, "--out", self.folder(out)] + flags
                + ([] if background else ["--memory", "100"]) + (["--resume"] if resume else []))

    def folder(self, out):
        return os.path.join(self.scratch, out)

    def start(self, out, before=(), **how):
        self.runs += 1
        done = subprocess.run(list(before) + self.command(out, **how), env=self.environment, capture_output=True,
                              text=True, timeout=120)
        return done

    def outcome(self, out):
        """Of the weights, and of the losses of all steps."""
        with open(os.path.join(self.folder(out), "model.safetensors"), "rb") as file:
            weights = hashlib.sha256(file.read()).hexdigest()
        with open(os.path.join(self.folder(out), "train.jsonl")) as file:
            lines = [json.loads(line) for line in file]
        return weights, [(line["step"], line["loss"]) for line in lines]

    def resumes(self, what, out, **how):
        """The run in `out` was ended: it goes on to the end of the whole run, and leaves nothing behind."""
        done = self.start(out, resume=True, **how)
        problems = []
        if done.returncode != 0:
            problems.append("resuming ended with %d: %s" % (done.returncode, done.stderr.strip()[-300:]))
        elif self.outcome(out) != self.whole:
            problems.append("ended with other bits")
        else:
            states = os.listdir(os.path.join(self.folder(out), "states"))
            left = [name for name in states if not os.path.exists(
                os.path.join(self.folder(out), "states", name, "manifest.json"))]
            left += [name for state in states for name in os.listdir(os.path.join(self.folder(out), "states", state))
                     if ".tmp." in name]
            if left or len(states) > 3:
                problems.append("states left: %s" % ", ".join(sorted(states)))
        for problem in problems:
            self.failures.append("%s: %s" % (what, problem))
        shutil.rmtree(self.folder(out), ignore_errors=True)

    def counts(self):
        """How often a run makes each call, by the thread that trains."""
        log = os.path.join(self.scratch, "calls")
        self.start("counted", before=["strace", "-o", log, "-e", "trace=" + ",".join(CHANGING)], background=False)
        shutil.rmtree(self.folder("counted"))
        with open(log) as file:
            names = [line.split("(")[0] for line in file if "(" in line]
        return {call: names.count(call) for call in CHANGING}


def kills(bench):
    for call, count in bench.counts().items():
        for n in range(1, count + 1):
            bench.start("killed", before=["strace", "-o", "/dev/null", "-e", "inject=%s:signal=KILL:when=%d" % (call, n)],
                        background=False)
            bench.resumes("killed at %s %d" % (call, n), "killed", background=False)


def random_kills(bench, count):
    start = time.monotonic()
    bench.start("timed")
    shutil.rmtree(bench.folder("timed"))
    length, rng = time.monotonic() - start, random.Random(1)
    for n in range(count):
        run = subprocess.Popen(bench.command("random"), env=bench.environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, length))
        run.send_signal(signal.SIGKILL)
        run.wait()
        bench.resumes("killed at random, %d" % n, "random")


def told_to_stop(bench):
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for delay in (0.05, 0.1, 0.2, 0.3):
            run = subprocess.Popen(bench.command("stopped"), env=bench.environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
            time.sleep(delay)
            run.send_signal(which)
            out, _ = run.communicate(timeout=60)
            if run.returncode == 130 and "--resume goes on" not in out:
                bench.failures.append("%s: does not say how to go on" % which.name)
            bench.resumes("%s after %g s" % (which.name, delay), "stopped")


def errors(bench):
    """A full disk and a broken one, at each call: the program says so or goes on, and what was saved stays."""
    for error in ("ENOSPC", "EIO"):
        for call, count in bench.counts().items():
            if call == "openat" or (error == "EIO" and call == "mkdir"):
                continue
            for n in range(1, count + 1):
                done = bench.start("failing", before=["strace", "-o", "/dev/null", "-e",
                                                      "inject=%s:error=%s:when=%d" % (call, error, n)],
                                   background=False)
                if done.returncode < 0:
                    bench.failures.append("%s at %s %d: ended by signal %d" % (error, call, n, -done.returncode))
                if done.returncode > 0 and not done.stderr.startswith("train_gpt: "):
                    bench.failures.append("%s at %s %d: ended without a word" % (error, call, n))
                bench.resumes("%s at %s %d" % (error, call, n), "failing", background=False)


def small_disk(bench):
    """A file system of 1 MB, on which no third state fits."""
    if os.geteuid() != 0:
        print("  skipped: a small disk needs root")
        return
    folder = bench.folder("disk")
    os.makedirs(folder)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode != 0:
        print("  skipped: this system mounts no tmpfs")
        return
    try:
        done = bench.start("disk", background=False, more="--dims 96 --keep 9")
        text = done.stdout + done.stderr
        if not re.search(r"No space left on device.*needs \d+ bytes in .*those before it are whole", text):
            bench.failures.append("small disk: the error names neither the file nor the bytes: " + text[-300:])
    finally:
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)


class Disk:
    """What a machine keeps that loses power: bytes and names as of their last sync."""

    def __init__(self):
        self.files, self.names, self.synced_names, self.open = [], {}, {}, {}

    def apply(self, call, arguments, result):
        if call == "openat" and "O_CREAT" in arguments and result >= 0:
            path = self.path_of(arguments)
            if path not in self.names or "O_TRUNC" in arguments:
                self.names[path] = len(self.files)
                self.files.append([b"", b""])  # written, synced
            self.open[result] = path
        elif call == "openat" and result >= 0:
            self.open[result] = self.path_of(arguments)
        elif call == "write":
            path = self.open.get(int(arguments.split(",")[0]))
            if path in self.names:
                self.files[self.names[path]][0] += bytes_of(arguments)
        elif call == "fsync":
            path = self.open.get(int(arguments.split(",")[0]))
            if path in self.names:
                file = self.files[self.names[path]]
                file[1] = file[0]
            elif path:
                folder = path.rstrip("/") + "/"
                inside = lambda name: name.startswith(folder) and "/" not in name[len(folder):]
                self.synced_names = {name: file for name, file in self.synced_names.items() if not inside(name)}
                self.synced_names.update({name: file for name, file in self.names.items() if inside(name)})
        elif call == "rename" and result == 0:
            old, new = re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)[:2]
            if unescaped(old) in self.names:
                self.names[unescaped(new)] = self.names.pop(unescaped(old))
        elif call in ("unlink", "unlinkat") and result == 0:
            self.names.pop(self.path_of(arguments), None)
        elif call == "close":
            self.open.pop(int(arguments), None)

    def path_of(self, arguments):
        """Of a call that names a folder by its number or none."""
        path, at = text_of(arguments), arguments.split(",")[0]
        return self.open[int(at)] + "/" + path if at.isdigit() and not path.startswith("/") else path

    def leave(self, folder, names):
        shutil.rmtree(folder, ignore_errors=True)
        for name, file in names.items():
            if not name.startswith(folder + "/"):
                continue
            os.makedirs(os.path.dirname(name), exist_ok=True)
            with open(name, "wb") as out:
                out.write(self.files[file][1])


def unescaped(text):
    return bytes(int(x, 16) for x in re.findall(r"\\x([0-9a-f]{2})", text)).decode("latin-1")


def text_of(arguments):
    return unescaped(re.search(r'"((?:[^"\\]|\\.)*)"', arguments).group(1))


def bytes_of(arguments):
    return bytes(int(x, 16) for x in re.findall(r"\\x([0-9a-f]{2})", arguments))


def power_failures(bench):
    log, out = os.path.join(bench.scratch, "order"), bench.folder("power")
    bench.start("power", before=["strace", "-o", log, "-xx", "-s", "1000000", "-e",
                                 "trace=" + ",".join(CHANGING + ["close"])], background=False)
    calls = []
    with open(log) as file:
        for line in file:
            match = re.match(r"(\w+)\((.*)\)\s+= (-?\d+)", line)
            if match:
                calls.append((match.group(1), match.group(2), int(match.group(3))))
    disk, seen = Disk(), set()
    for n, call in enumerate(calls):
        disk.apply(*call)
        for which, names in (("names", disk.names), ("synced names", disk.synced_names)):
            state = tuple(sorted((name, disk.files[file][1]) for name, file in names.items()
                                 if "/states/" in name or name.endswith("train.jsonl")))
            if state in seen:
                continue
            seen.add(state)
            disk.leave(out, names)
            bench.resumes("power failed after call %d, %s" % (n, which), "power", background=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--random", type=int, default=50)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options.program, scratch)
        kinds = {"kills at every call": kills, "kills at random": lambda b: random_kills(b, options.random),
                 "signals to stop": told_to_stop, "full and broken disks": errors, "a disk of 1 MB": small_disk,
                 "power failures": power_failures}
        for name, kind in kinds.items():
            if options.only not in name:
                continue
            runs, failures = bench.runs, len(bench.failures)
            kind(bench)
            print("%-24s %5d runs, %d failures" % (name, bench.runs - runs, len(bench.failures) - failures), flush=True)
        for failure in bench.failures:
            print("  " + failure)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
