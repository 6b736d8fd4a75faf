"""Training by several processes against one: tokens a second, memory a rank, and time in communication.

Then one long sequence that ranks share: memory a rank at R times the context, and the context that fits.

    ./run bench ranks [--ranks 1,2] [--rounds R] [--layers N --dims D ...] [--ring-ranks 1,2,4] [--ring-context 1024]

Each rank has one thread; beside them one process has as many threads as there are cores. Runs take turns, so that what
others do to the machine in a round hits all of them. What is in communication includes waiting for slower ranks. Of it, what
goes on beside backward is hidden: REMAT_RANK_OVERLAP=1 lets ranks of one thread do so, too.
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
MODEL = {"layers": 6, "dims": 512, "heads": 8, "context": 512, "batch": 16, "vocabulary": 8192, "micro-batches": 4}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="the program steps_ranks (./run gives it)")
    parser.add_argument("--mpirun", default="mpirun", help="with its flags, in one word")
    parser.add_argument("--ranks", default="1,2", help="numbers of ranks of one thread each")
    parser.add_argument("--cores", type=int, default=2, help="threads of the one process beside them")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--steps", type=int, default=3, help="steps of a run that are measured")
    parser.add_argument("--tied", action="store_true", help="the head is the token embedding")
    parser.add_argument("--ring-ranks", default="1,2,4", help="ranks that share one sequence; empty: leave that out")
    parser.add_argument("--ring-context", type=int, default=1024, help="tokens of that sequence a rank")
    parser.add_argument("--zero", type=int, default=2, choices=(1, 2), help="what is in shards: moments, gradients too")
    parser.add_argument("--out", type=pathlib.Path, default=here / "out", help="folder for ranks.csv and ranks_run.txt")
    for name, value in MODEL.items():
        parser.add_argument("--" + name, type=int, default=value, help=f"{value} by default")
    args = parser.parse_args()
    try:
        args.ranks = [int(word) for word in args.ranks.split(",")]
        args.ring_ranks = [int(word) for word in args.ring_ranks.split(",") if word]
    except ValueError:
        parser.error(f"--ranks is {args.ranks}, --ring-ranks {args.ring_ranks}; they must be numbers, as 1,2,4")
    if 1 not in args.ranks or min(args.ranks) < 1 or args.rounds < 1 or args.steps < 1:
        parser.error("--ranks must hold 1, which the others are compared with; --rounds and --steps are at least 1")
    if args.ring_ranks and (1 not in args.ring_ranks or min(args.ring_ranks) < 1 or args.ring_context % 2 != 0):
        parser.error("--ring-ranks must hold 1, which the others are compared with; --ring-context is even")
    if max(args.ranks) > args.micro_batches:
        parser.error(f"--micro-batches {args.micro_batches} leave some of {max(args.ranks)} ranks nothing to do")
    return args


def measured(args, ranks, threads, *more, **other):
    """One run of the program: the flags of the model, or `other` values of them, and `more` flags."""
    flags = {name: vars(args)[name.replace("-", "_")] for name in [*MODEL, "steps", "zero"]} | {"threads": threads} | other
    words = [str(word) for name, value in flags.items() for word in ("--" + name, value)]
    words += ["--tied"] * args.tied + [str(word) for word in more]
    command = [*args.mpirun.split(), "-np", str(ranks), args.program, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def share(run):
    """Of a step in communication, on the rank where it is most."""
    return max(statistics.median(c / s for c, s in zip(each, run["seconds"])) for each in run["communication"])


def hidden(run):
    """Of that, the part beside which something is computed; over all ranks and steps."""
    every = lambda name: sum(seconds for each in run[name] for seconds in each)
    return 1 - every("waited") / every("communication") if every("communication") > 0 else 0


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


# What is kept until backward, and by which policy of one rank memory is judged. What attention gives always stays where
# ranks share a sequence, in memory or on disk.
RING = {"everything": "everything", "nothing": "nothing", "offload(ops(attention))": "nothing"}


def measure_ring(args):
    rows, of_one = [], {}
    for policy, like in RING.items():
        for ranks in args.ring_ranks:
            run = measured(args, ranks, 1, "--ring", "--policy", policy, context=args.ring_context, steps=1)
            peak = run["activation_bytes"]
            if ranks == 1 and policy == like:
                of_one[policy] = peak
            fits = measured(args, ranks, 1, "--ring", "--policy", policy, "--fit", int(of_one[like]))["fits"]
            rows.append({
                "policy": policy,
                "ranks": ranks,
                "tokens": run["tokens"],
                "activation_mib": round(peak / 2**20, 1),
                "of_one": round(peak / of_one[like], 3),
                "fits": fits,
                "seconds": round(run["seconds"][0], 2),
                "communication": round(share(run), 4),
                "loss": run["loss"],
            })
    write_table(args.out / "ranks_context.csv", rows)
    print(f"\none sequence that ranks share, {args.ring_context} tokens a rank")
    print(f"{'kept':>24} {'ranks':>6} {'tokens':>7} {'MiB a rank':>11} {'of one rank':>12} {'fits in that':>13} {'s':>7} "
          f"{'in communication':>17}")
    for row in rows:
        print(f"{row['policy']:>24} {row['ranks']:6} {row['tokens']:7} {row['activation_mib']:11} {row['of_one']:12.3f} "
              f"{row['fits']:13} {row['seconds']:7.2f} {100 * row['communication']:15.1f} %")
    for tokens in {row["tokens"] for row in rows}:
        losses = {row["loss"] for row in rows if row["tokens"] == tokens}
        if max(losses) - min(losses) > 1e-5 * max(losses):
            sys.exit(f"policies do not compute the same at {tokens} tokens: losses {sorted(losses)}")


def main():
    args = parse_arguments()
    settings = [(ranks, 1) for ranks in args.ranks] + [(1, args.cores)]
    settings = list(dict.fromkeys(settings))
    runs = {setting: [] for setting in settings}
    for round_number in range(args.rounds):
        for setting in settings if round_number % 2 == 0 else settings[::-1]:
            runs[setting].append(measured(args, *setting))
    losses = {run["loss"] for all_runs in runs.values() for run in all_runs}
    if len(losses) > 1:
        sys.exit(f"ranks do not compute the same: losses {sorted(losses)}")

    one = runs[(1, 1)]
    rows = []
    for (ranks, threads), mine in runs.items():
        seconds = [statistics.median(run["seconds"]) for run in mine]
        ratios = [statistics.median(a["seconds"]) / s for a, s in zip(one, seconds)]
        rows.append({
            "ranks": ranks,
            "threads": threads,
            "tokens_per_s": round(mine[0]["tokens"] / statistics.median(seconds), 1),
            "speedup": round(statistics.median(ratios), 4),
            "peak_mib": round(max(run["peak_bytes"] for run in mine) / 2**20, 1),
            "moments_mib": round(mine[0]["moment_bytes"] / 2**20, 2),
            "sent_mib": round(mine[0]["sent_bytes"] / 2**20, 2),
            "communication": round(statistics.median(share(run) for run in mine), 4),
            "hidden": round(statistics.median(hidden(run) for run in mine), 3),
        })
    write_table(args.out / "ranks.csv", rows)
    title = (f"GPT of {one[0]['parameters'] / 1e6:.1f} M parameters, {args.micro_batches} micro-batches of "
             f"{args.batch // args.micro_batches} x {args.context} tokens, ZeRO {args.zero}")
    (args.out / "ranks_run.txt").write_text(title + "\n")
    print(title)
    print(f"{'ranks':>5} {'threads':>8} {'tokens/s':>10} {'times':>7} {'peak MiB':>9} {'moments MiB':>12} {'sent MiB':>9} "
          f"{'in communication':>17} {'hidden':>7}")
    for row in rows:
        print(f"{row['ranks']:5} {row['threads']:8} {row['tokens_per_s']:10} {row['speedup']:7.2f} {row['peak_mib']:9} "
              f"{row['moments_mib']:12} {row['sent_mib']:9} {100 * row['communication']:15.1f} % {100 * row['hidden']:5.0f} %")
    print(f"all losses are equal: {losses.pop():.6f}")
    if args.ring_ranks:
        measure_ring(args)


if __name__ == "__main__":
    main()
