"""Training time against PyTorch on nanoGPT's CPU setting, run after run in turn on the same machine.

    ./run bench nanogpt-cpu [--data FILE] [--rounds R] [--steps S] [--threads N] [--compiled]

On a shared machine times drift by far more than systems differ, so what counts is the ratio within each round. Where
others keep the cores busy, set OMP_WAIT_POLICY=passive: threads that spin while they wait take time from each other.
"""

import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
WARM_UP = 20  # steps that are not counted: first pages, thread pools, compilation


def ms_per_step(command, args):
    """Runs one trainer, which writes train.jsonl into the folder it is given; the mean over its later steps."""
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    with tempfile.TemporaryDirectory() as out:
        flags = {"--data": args.data, "--steps": args.steps, "--threads": args.threads, "--out": out}
        command = [*command, *(str(word) for flag in flags.items() for word in flag)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
        lines = (pathlib.Path(out) / "train.jsonl").read_text().splitlines()
    return statistics.fmean(json.loads(line)["ms"] for line in lines[WARM_UP:])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainer", required=True, help="the program train_gpt (./run gives it)")
    parser.add_argument("--data", required=True, help="text file to learn (./run has a default)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each system")
    parser.add_argument("--steps", type=int, default=300, help=f"of a run; the first {WARM_UP} are not counted")
    parser.add_argument("--threads", type=int, default=2, help="of each system")
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile, too")
    parser.add_argument("--csv", type=pathlib.Path, default=here / "out" / "nanogpt_cpu.csv", help="where to write")
    args = parser.parse_args()
    if args.rounds < 1 or args.threads < 1 or args.steps <= WARM_UP:
        parser.error(f"--rounds and --threads must be at least 1, --steps above {WARM_UP}")
    return args


def main():
    args = parse_arguments()
    twin = [sys.executable, str(here / "peers" / "gpt_torch.py")]
    systems = {
        "remat": [args.trainer, "--preset", "nanogpt-cpu", "--eval-every", str(args.steps), "--sample-length", "0"],
        "pytorch": twin,
    }
    if args.compiled:
        systems["pytorch compiled"] = [*twin, "--compile"]

    times = {name: [] for name in systems}
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["round", "system", "threads", "steps", "ms_per_step"])
        for round in range(1, args.rounds + 1):
            # Every second round backwards, so that a steady drift favours nobody.
            for name in list(systems)[:: 1 if round % 2 else -1]:
                times[name].append(ms_per_step(systems[name], args))
                rows.writerow([round, name, args.threads, args.steps, f"{times[name][-1]:.4f}"])
            file.flush()
            latest = (f"{name} {of[-1]:.2f} ms" for name, of in times.items())
            print(f"round {round}/{args.rounds}: " + ", ".join(latest), flush=True)

    print(f"\n{'system':18}{'best ms':>10}{'median ms':>12}{'remat / it':>13}")
    for name, of in times.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(times["remat"], of))
        print(f"{name:18}{min(of):10.2f}{statistics.median(of):12.2f}{ratio:13.3f}")


if __name__ == "__main__":
    main()
