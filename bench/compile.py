"""Seconds and memory that small programs take to compile, from the headers alone and against remat::compiled.

    ./run bench compile [--compiler CXX] [--flags "-O3 ..."] [--rounds R]

Processor time of the compiler (user and system, so that a busy machine says nearly the same), the least of the rounds.
A program against remat::compiled includes <remat/compiled.hpp>, whose library is compiled once for the project; behind a
precompiled header, that file is read once for it, too.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

INCLUDE = pathlib.Path(__file__).resolve().parent.parent / "include"
STEP = """
int main() {
  remat::ParameterRegistry parameters;
  %s
  remat::optim::AdamW adamw(parameters);
  remat::Tape tape({.seed = 1, .step = 0});
  %s
  tape.backward(loss);
  adamw.step(1e-3);
}
"""
LAYER = "const auto x = tape.input(remat::Tensor<float>({1, 16, 64}, 1.0F)); const auto loss = mean(layer(x));"
PROGRAMS = {
    "the umbrella alone": ("remat/remat.hpp", "int main() {}"),
    "one Linear, one step": ("remat/remat.hpp", STEP % (
        'const remat::nn::Linear<float> layer(parameters / "l", {.input_dims = 64, .output_dims = 8});', LAYER)),
    "one TransformerLayer, one step": ("remat/remat.hpp", STEP % (
        'const remat::nn::TransformerLayer<float> layer(parameters / "l",'
        " {.model_dims = 64, .hidden_dims = 256, .num_heads = 4});", LAYER)),
    "a GPT, one step": ("remat/models.hpp", STEP % (
        'const remat::models::Gpt<float> gpt(parameters / "gpt", {.vocabulary = 64, .context = 16, .num_layers = 2,'
        " .model_dims = 64, .num_heads = 4});",
        "const remat::Tensor<std::int32_t> ids({1, 16}, 1);"
        " const auto loss = gpt.loss(tape, remat::data::Batch{ids, ids});")),
}


def compile_once(source, command, to=os.devnull):
    """Seconds and the greatest resident size in MB of one run of the compiler."""
    process = subprocess.Popen([*command, "-c", source, "-o", to], stderr=subprocess.PIPE, text=True)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed:\n{errors}")
    children = usage.ru_utime + usage.ru_stime
    return children, usage.ru_maxrss / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default=os.environ.get("CXX", "g++"))
    parser.add_argument("--flags", default="-O3 -march=native")
    parser.add_argument("--include", action="append", default=[], help="folders of the libraries we include")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    command = [args.compiler, "-std=c++20", "-fopenmp", *args.flags.split(), f"-I{INCLUDE}"]
    for folder in args.include or ["/usr/include/eigen3"]:
        command += ["-isystem", folder]

    rows = [(name, way) for name in PROGRAMS for way in ("headers", "compiled", "precompiled")]
    seen = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        read_once = pathlib.Path(folder) / "precompiled.hpp"
        read_once.write_text("#include <remat/compiled.hpp>\n#include <remat/data.hpp>\n")
        once = pathlib.Path(f"{read_once}.{'pch' if 'clang' in args.compiler else 'gch'}")
        header_seconds, _ = compile_once(str(read_once), [*command, "-x", "c++-header"], str(once))
        for _ in range(args.rounds):  # in turn, since a shared machine's speed drifts
            for name, way in rows:
                header, body = PROGRAMS[name]
                source = pathlib.Path(folder) / "program.cpp"
                headers = ["remat/remat.hpp", "remat/data.hpp", header] if way == "headers" else [
                    "remat/compiled.hpp", "remat/data.hpp"]
                if name == "the umbrella alone" and way == "headers":
                    headers = [header]
                source.write_text("".join(f"#include <{each}>\n" for each in headers) + body + "\n")
                before = ["-include", str(read_once)] if way == "precompiled" else []
                seen[name, way].append(compile_once(str(source), command + before))
    print(f"{' '.join(command[:-1])}: best (median) seconds of processor time of {args.rounds}, most MB\n")
    print(f"{'program':34}{'headers':>16}{'MB':>7}{'remat::compiled':>18}{'MB':>7}{'precompiled':>16}{'MB':>7}")
    for name in PROGRAMS:
        line = f"{name:34}"
        for way, width in (("headers", 16), ("compiled", 18), ("precompiled", 16)):
            times, sizes = zip(*seen[name, way])
            text = f"{min(times):.1f} ({statistics.median(times):.1f})"
            line += f"{text:>{width}}{max(sizes):>7.0f}"
        print(line)
    print(f"\nprecompiled: the program of remat::compiled behind a precompiled header, which takes {header_seconds:.1f} s once")


if __name__ == "__main__":
    main()
