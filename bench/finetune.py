#!/usr/bin/env python3
"""Finetunes SmolLM2-135M beside PEFT: `./run bench finetune`. Programs run one after another in rounds, a few steps each
on the same batches; the table has medians over all steps but each run's first, and the largest memory of any.

Of ours: the frozen base as it is stored and as floats, and all weights, under one policy; and what --memory 400 plans.
With --compare-losses also the fall of the held-out loss on the same batches, with samples apart, for both."""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile


def lines_of(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="finetune, as `run` builds it")
    parser.add_argument("--python", required=True, help="with torch, transformers, peft, gguf")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="of each run")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--compare-losses", type=int, default=0, metavar="STEPS")
    parser.add_argument("--only", nargs="*", help="rows whose names hold one of these words")
    arguments = parser.parse_args()
    here = pathlib.Path(__file__).resolve().parent
    work = pathlib.Path(tempfile.mkdtemp(prefix="remat_finetune_"))
    model = pathlib.Path(arguments.model)
    shape = ["--context", str(arguments.context), "--batch", str(arguments.batch)]

    def ours(steps, *flags, questions="0"):
        out = work / "ours"
        command = [arguments.program, "--model", arguments.model, "--data", arguments.data, "--out", str(out)]
        command += [*shape, "--steps", str(steps), "--questions", questions, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        log = out / "train.jsonl"
        return lines_of(log.read_text(encoding="utf-8")) if log.exists() else []

    def peft(steps, *flags):
        command = [arguments.python, str(here / "peers" / "finetune_peft.py"), "--folder", str(model.parent)]
        command += ["--gguf", model.name, "--export", str(work / "export"), "--batch", str(arguments.batch)]
        command += ["--steps", str(steps), *flags]
        return lines_of(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    ours(max(arguments.steps, arguments.compare_losses), "--export", str(work / "export"), "--memory", "0")
    free = ("--eval-batches", "1", "--memory", "0", "--policy", "save_nothing")
    rows = {
        "remat, stored base, --memory 400": lambda: ours(arguments.steps, "--eval-batches", "1", "--memory", "400"),
        "remat, stored base, save_nothing": lambda: ours(arguments.steps, *free),
        "remat, float base, save_nothing": lambda: ours(arguments.steps, *free, "--base", "floats"),
        "remat, all weights, save_nothing": lambda: ours(arguments.steps, *free, "--full"),
        "remat, stored base, everything": lambda: ours(arguments.steps, "--eval-batches", "1", "--memory", "0"),
        "PEFT, checkpointing": lambda: peft(arguments.steps, "--checkpointing"),
        "PEFT": lambda: peft(arguments.steps),
        "PyTorch, all weights, checkpointing": lambda: peft(arguments.steps, "--checkpointing", "--full"),
    }
    if arguments.only:
        rows = {name: run for name, run in rows.items() if any(word in name for word in arguments.only)}
    seconds, anonymous, resident = ({name: [] for name in rows} for _ in range(3))
    for _ in range(arguments.rounds):
        for name, run in rows.items():
            steps = [line for line in run() if "ms" in line]
            seconds[name] += [line["ms"] / 1e3 for line in steps[1:]]
            anonymous[name] += [line["anonymous_bytes"] for line in steps]
            resident[name].append(steps[-1]["peak_resident_bytes"])
    tokens = arguments.batch * arguments.context
    print(f"{'':38}{'s a step':>10}{'best':>8}{'tokens/s':>10}{'MiB held':>10}{'peak resident':>15}")
    for name in rows:
        middle = statistics.median(seconds[name])
        print(
            f"{name:38}{middle:10.2f}{min(seconds[name]):8.2f}{tokens / middle:10.0f}"
            f"{max(anonymous[name]) / 2**20:10.0f}{max(resident[name]) / 2**20:15.0f}"
        )
    if arguments.compare_losses:
        steps = arguments.compare_losses
        falls = {}
        for name, lines in {
            "remat": ours(steps, "--memory", "400", "--warmup", "10"),
            "PEFT": peft(steps, "--apart", "--evaluate"),
        }.items():
            losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
            falls[name] = losses[0] - losses[-1]
            print(f"{name}: held-out loss {losses[0]:.4f} -> {losses[-1]:.4f} in {steps} steps")
        print(f"ratio of the falls {falls['remat'] / falls['PEFT']:.4f}")


if __name__ == "__main__":
    main()
