"""Time and memory of a training step against PyTorch, eager and compiled, and JAX: same shapes, tokens and optimizer.

    ./run bench peers [--models gpt27,nanogpt,gpt2,long,attention512,attention2048] [--rounds R] [--steps N]
                      [--dtype float32|bfloat16] [--isa native|avx2] [--llmc FOLDER] [--neighbour]

Each system is a process that runs steps when asked, so that all of them take turns: A B C D, D C B A, ... On a shared
machine times drift by far more than systems differ: what counts is the ratio within a round. A step is forward,
backward, clipping by global norm and AdamW. Beside peers without remat stands `remat dots`, too: it keeps the results
of products and makes what lies between them again. At context 8192 our feed-forwards work on 1024 tokens at a time.
--llmc, with a checkout of llm.c, adds its trainer for CPUs where the model is one of its: a tied head, biases, float32,
without remat. --neighbour measures each round twice, alone and beside a process that spins on one of the CPUs.
Compilation and the first steps come before and are not counted. Who waits is stopped, so that its threads take no time
from the others: OMP_WAIT_POLICY=active lets them spin within a step.
"""

import argparse
import array
import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
WARM_UP = 3  # steps of each system that are not counted: first pages, thread pools, compilation


@dataclasses.dataclass(frozen=True)
class Model:
    layers: int
    dims: int
    heads: int
    context: int
    batch: int
    vocabulary: int
    untied: bool = False
    bias: bool = True
    steps: int = 3  # of a round
    attention: bool = False  # alone, forward and backward
    ffn_chunk: int = 0  # tokens that our feed-forward works on at a time; 0: all

    def flags(self):
        sizes = ("layers", "dims", "heads", "context", "batch", "vocabulary")
        words = [str(word) for size in sizes for word in ("--" + size, getattr(self, size))]
        return words + ["--untied"] * self.untied + ["--bias"] * self.bias + ["--attention"] * self.attention

    def tokens(self):
        return self.batch * self.context

    def flops(self):
        """Of a step, 2mnk for each product, nothing computed twice, of attention what is visible."""
        if self.attention:
            return 7 * self.dims * (self.context + 1) * self.tokens()
        products = 12 * self.layers * self.dims**2 + self.vocabulary * self.dims
        attention = self.layers * self.dims * (self.context + 1)
        return 6 * (products + attention) * self.tokens()


MODELS = {
    "gpt27": Model(6, 512, 8, 512, 4, 8192, untied=True),
    "nanogpt": Model(4, 128, 4, 64, 12, 65, bias=False, steps=40),
    "gpt2": Model(12, 768, 12, 256, 4, 50257, steps=2),
    "long": Model(4, 256, 4, 8192, 1, 256, steps=2, ffn_chunk=1024),
    "attention512": Model(1, 512, 8, 512, 4, 1, steps=10, attention=True),
    "attention2048": Model(1, 512, 8, 2048, 1, 1, steps=5, attention=True),
    "tiny": Model(2, 64, 2, 32, 2, 100, steps=5),  # to try this program
}


class Failure(Exception):
    pass


class System:
    """One process that runs steps on request, stopped in between."""

    def __init__(self, command, args):
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "NPROC": str(args.threads)}
        environment |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "JAX_PLATFORMS": "cpu"}
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, args.cpus),
        )
        # Where memory does not suffice, the system that takes most of it ends, not the comparison.
        self.file("oom_score_adj").write_text("1000")

    def file(self, name):
        return pathlib.Path("/proc", str(self.process.pid), name)

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                self.process.send_signal(signal.SIGSTOP)
                return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        raise Failure(lines[-1] if lines else f"ended with {code}, perhaps for want of memory")

    def ask(self, request):
        self.process.send_signal(signal.SIGCONT)
        print(request, file=self.process.stdin, flush=True)
        return self.answer()

    def peak_bytes(self):
        """Largest resident size since the start, or since `forget_peak`."""
        words = next(line.split() for line in self.file("status").read_text().splitlines() if "VmHWM" in line)
        return 1024 * int(words[1])

    def forget_peak(self):
        self.file("clear_refs").write_text("5")

    def end(self):
        self.process.kill()
        self.process.wait()


@dataclasses.dataclass
class Outcome:
    rounds: list = dataclasses.field(default_factory=list)  # milliseconds of each step
    beside: list = dataclasses.field(default_factory=list)  # the same beside a busy neighbour
    parameters: int = 0
    first_ms: float = 0
    peak_bytes: int = 0
    first_peak_bytes: int = 0  # compilation and the first steps included
    loss: float = 0
    failure: str = ""

    def best(self):
        return min(min(of) for of in self.rounds)

    def median(self):
        return statistics.median(ms for of in self.rounds for ms in of)

    def times(self, other):
        """This one's time over the other's, round by round, and then the median."""
        pairs = zip(self.rounds, other.rounds)
        return statistics.median(statistics.median(mine) / statistics.median(others) for mine, others in pairs)

    def slowed(self):
        """The time beside a busy neighbour over that alone, round by round, and then the median."""
        return statistics.median(statistics.median(b) / statistics.median(a) for b, a in zip(self.beside, self.rounds))


@contextlib.contextmanager
def busy_neighbour(cpu):
    """A process that spins on one CPU."""
    program = [sys.executable, "-c", "while True: pass"]
    spinning = subprocess.Popen(program, preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
    try:
        yield
    finally:
        spinning.kill()
        spinning.wait()


def write_tokens(model, path):
    """Tokens of 16 steps that a model can learn to predict, but for two bits each."""
    generator, tokens = random.Random(1), array.array("i", [0])
    for _ in range(16 * model.tokens()):
        tokens.append((5 * tokens[-1] + 1 + generator.randrange(4)) % model.vocabulary)
    path.write_bytes(tokens.tobytes())


def commands(args, remat, model):
    torch, jax = ([sys.executable, str(here / "peers" / f"steps_{name}.py")] for name in ("torch", "jax"))
    own = [args.stepper, "--ffn-chunk", str(model.ffn_chunk), "--policy"]
    with_remat = ["--remat"] * remat
    all = {
        "remat": [*own, "nothing" if remat else "everything"],
        "remat dots": [*own, "dots"],
        "pytorch": [*torch, *with_remat],
        "pytorch compiled": [*torch, "--compile", *with_remat],
        "pytorch autotuned": [*torch, "--max-autotune", *with_remat],
        "jax": [*jax, *with_remat],
    }
    if args.llmc and not (remat or model.attention or model.untied) and model.bias and args.dtype == "float32":
        all["llm.c"] = [args.llmc]
    ours = ("remat",) if remat or model.attention else ("remat", "remat dots")
    return {name: all[name] for name in all if name in ours or name in args.systems or name == "llm.c"}


def build_llmc(folder, args, into):
    """llm.c's trainer behind our questions, compiled as its Makefile does."""
    march = "x86-64-v3" if args.isa == "avx2" else "native"
    program = str(pathlib.Path(into) / "steps_llmc")
    command = ["cc", "-Ofast", f"-march={march}", "-fopenmp", "-DOMP", "-w", f"-I{folder}"]
    command += [str(here / "peers" / "steps_llmc.c"), "-o", program, "-lm"]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"peers: {folder}: train_gpt2.c of llm.c does not compile")
    return program


def start(name, command, args):
    system, outcome = None, Outcome()
    try:
        print(f"  {name}: ", end="", flush=True)
        system = System(command, args)
        outcome.parameters = system.answer()["parameters"]
        outcome.first_ms = system.ask(WARM_UP)["ms"][0]
        outcome.first_peak_bytes = system.peak_bytes()
        system.forget_peak()
        print(f"first step {outcome.first_ms / 1e3:.1f} s", flush=True)
    except (Failure, OSError) as failure:
        outcome.failure = str(failure)
        print(f"failed: {failure}", flush=True)
    return system, outcome


def compare(model, remat, args):
    """Outcomes by system, and the FMA peak beside each round."""
    outcomes, systems, peaks = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        tokens = pathlib.Path(folder) / "tokens"
        write_tokens(model, tokens)
        flags = [*model.flags(), "--tokens", str(tokens), "--dtype", args.dtype, "--threads", str(args.threads)]
        try:
            for name, command in commands(args, remat, model).items():
                systems[name], outcomes[name] = start(name, [*command, *flags], args)
            if outcomes["remat"].failure:
                sys.exit(f"peers: {outcomes['remat'].failure}")
            for round in range(1, args.rounds + 1):
                running = [name for name in systems if not outcomes[name].failure]
                for name in running[:: 1 if round % 2 else -1]:
                    try:
                        answer = systems[name].ask(args.steps or model.steps)
                        outcomes[name].rounds.append(answer["ms"])
                        outcomes[name].loss = answer["loss"]
                        outcomes[name].peak_bytes = systems[name].peak_bytes()
                        if args.neighbour:
                            with busy_neighbour(args.cpus[-1]):
                                outcomes[name].beside.append(systems[name].ask(args.steps or model.steps)["ms"])
                    except (Failure, OSError) as failure:
                        outcomes[name].failure = str(failure)
                peaks.append(systems["remat"].ask("peak")["gflops"])
                latest = ((name, outcomes[name]) for name in running if not outcomes[name].failure)
                times = (f"{name} {statistics.median(of.rounds[-1]):.1f} ms" for name, of in latest)
                print(f"  round {round}/{args.rounds}: " + ", ".join(times), flush=True)
        finally:
            for system in systems.values():
                if system:
                    system.end()
    return outcomes, peaks


def check_that_models_are_equal(outcomes):
    """Initial values differ, sizes do not, and losses little."""
    ours = outcomes["remat"]
    for name, outcome in outcomes.items():
        if outcome.failure:
            continue
        if outcome.parameters != ours.parameters:
            sys.exit(f"peers: {name} has {outcome.parameters} parameters, remat {ours.parameters}")
        if abs(outcome.loss / ours.loss - 1) > 0.05:
            print(f"  note: the loss of {name} is {outcome.loss:.4f}, that of remat {ours.loss:.4f}")


PEERS = ("pytorch", "pytorch compiled", "pytorch autotuned", "jax")
COLUMNS = (
    "model,dtype,with_remat,system,threads,parameters,rounds,best_ms,median_ms,tokens_per_s,fma_peak_gflops,"
    "share_of_peak,remat_times,peak_bytes,remat_bytes_times,first_peak_bytes,first_step_s,loss,failure,"
    "dots_times,dots_bytes_times,isa,neighbour_times"
).split(",")


def rows_of(name, model, remat, outcomes, peaks, args):
    ours, dots, peak = outcomes["remat"], outcomes.get("remat dots"), max(peaks)  # noise only lowers it
    for system, o in outcomes.items():
        row = {"model": name, "dtype": args.dtype, "isa": args.isa, "with_remat": int(remat), "system": system}
        row["threads"] = args.threads
        if o.failure:
            yield row | {"failure": o.failure}
            continue
        if dots and not dots.failure:
            row["dots_times"] = round(dots.times(o), 4)
            row["dots_bytes_times"] = round(dots.peak_bytes / o.peak_bytes, 4)
        if o.beside:
            row["neighbour_times"] = round(o.slowed(), 4)
        yield row | {
            "parameters": o.parameters,
            "rounds": args.rounds,
            "best_ms": round(o.best(), 3),
            "median_ms": round(o.median(), 3),
            "tokens_per_s": round(1e3 * model.tokens() / o.median(), 1),
            "fma_peak_gflops": round(peak, 1),
            "share_of_peak": round(model.flops() / o.median() * 1e-6 / peak, 4),
            "remat_times": round(ours.times(o), 4),
            "peak_bytes": o.peak_bytes,
            "remat_bytes_times": round(ours.peak_bytes / o.peak_bytes, 4),
            "first_peak_bytes": o.first_peak_bytes,
            "first_step_s": round(o.first_ms / 1e3, 3),
            "loss": round(o.loss, 6),
        }


def print_table(rows):
    heads = ("", "best", "median", "tokens", "of FMA", "time", "resident", "memory", "dots:", "dots:")
    units = ("system", "ms", "ms", "/s", "peak", "ours/its", "peak MiB", "ours/its", "time", "memory")
    for words in (heads, units):
        print("  {:18}{:>9}{:>9}{:>9}{:>8}{:>10}{:>10}{:>10}{:>8}{:>8}".format(*words))
    for row in rows:
        if "failure" in row:
            print(f"  {row['system']:18}  failed: {row['failure'][:90]}")
            continue
        print(
            f"  {row['system']:18}{row['best_ms']:9.1f}{row['median_ms']:9.1f}{row['tokens_per_s']:9.0f}"
            f"{100 * row['share_of_peak']:7.0f}%{row['remat_times']:10.2f}{row['peak_bytes'] / 2**20:10.0f}"
            f"{row['remat_bytes_times']:10.2f}",
            *(f"{row[name]:7.2f}" for name in ("dots_times", "dots_bytes_times") if name in row),
        )
    if slowed := [f"{row['system']} {row['neighbour_times']:.2f}" for row in rows if "neighbour_times" in row]:
        print("  time beside a process that spins on one CPU, over that alone: " + ", ".join(slowed))
    print(flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="./run bench peers", description=__doc__.splitlines()[0])
    words = lambda text: [word.strip() for word in text.split(",") if word.strip()]
    parser.add_argument("--stepper", required=True, help="the program steps_remat (./run gives it)")
    all_but_tiny = ",".join(name for name in MODELS if name != "tiny")
    parser.add_argument("--models", type=words, default=all_but_tiny, help=f"of {', '.join(MODELS)}")
    parser.add_argument("--systems", type=words, default="pytorch,pytorch compiled,jax",
                        help="to compare with; there is pytorch autotuned, too")
    parser.add_argument("--isa", choices=("native", "avx2"), default="native",
                        help="instructions that all systems are held to (./run sets what tells them)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each system")
    parser.add_argument("--steps", type=int, default=0, help="of a turn; 0: chosen by model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute in")
    parser.add_argument("--remat", choices=("off", "on", "both"), default="both", help="of every layer")
    parser.add_argument("--threads", type=int, default=2, help="of each system, on as many CPUs")
    parser.add_argument("--llmc", type=pathlib.Path, metavar="FOLDER",
                        help="a checkout of llm.c, which is then built and compared with, too")
    parser.add_argument("--neighbour", action="store_true", help="also beside a process that spins on one CPU")
    parser.add_argument("--out", type=pathlib.Path, default=here / "out", help="folder for peers.csv and pictures")
    args = parser.parse_args()
    if unknown := [name for name in args.models if name not in MODELS]:
        parser.error(f"no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    if unknown := [name for name in args.systems if name not in PEERS]:
        parser.error(f"no system {unknown[0]!r}; there are {', '.join(PEERS)}")
    if args.llmc and not (args.llmc / "train_gpt2.c").is_file():
        parser.error(f"--llmc {args.llmc}: there is no train_gpt2.c")
    if args.rounds < 1 or args.threads < 1 or args.steps < 0:
        parser.error("--rounds and --threads must be at least 1, --steps at least 0")
    args.cpus = sorted(os.sched_getaffinity(0))[: args.threads]
    if len(args.cpus) < args.threads:
        parser.error(f"--threads {args.threads}, but there are {len(args.cpus)} CPUs to run on")
    return args


def main():
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("peers: terminated"))  # not without ending the systems
    folder = tempfile.TemporaryDirectory(prefix="remat_peers_")
    if args.llmc:
        args.llmc = build_llmc(args.llmc, args, folder.name)
    print(f"{args.threads} threads on CPUs {args.cpus}, instructions {args.isa}, OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'not set')}, "
          f"GOMP_SPINCOUNT {os.environ.get('GOMP_SPINCOUNT', 'not set')}")
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "peers.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for name in args.models:
            model = MODELS[name]
            modes = {"off": (False,), "on": (True,), "both": (False, True)}[args.remat]
            for remat in (False,) if model.attention else modes:
                print(f"{name}, {args.dtype}, {'with' if remat else 'without'} remat of every layer")
                outcomes, peaks = compare(model, remat, args)
                check_that_models_are_equal(outcomes)
                rows = list(rows_of(name, model, remat, outcomes, peaks, args))
                table.writerows(rows)
                file.flush()
                ours = outcomes["remat"]
                what = "causal attention alone" if model.attention else f"{ours.parameters / 1e6:.2f} M parameters"
                print(
                    f"  {what}, {model.tokens()} tokens and {model.flops() * 1e-9:.4g} GFLOP a step, "
                    f"FMA peak {max(peaks):.0f} GFLOP/s\n"
                )
                print_table(rows)
    print(f"wrote {args.out}/peers.csv")


if __name__ == "__main__":
    main()
