"""How far losses and gradients in bfloat16 are from float64, beside PyTorch's autocast: same weights, same tokens.

    ./run bench bfloat16-error [--layers 1,4,8,24] [--dims D] [--heads N] [--context T] [--batch B] [--deviation S]

The truth is PyTorch in float64. An error is that of the loss, relative, or the L2 norm of what all gradients are off,
relative to that of the gradients. `float stream` and `bfloat16 stream` are SkipStream::accum and ::compute.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from torch import nn

here = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(here / "peers"))
from gpt_torch import Gpt  # noqa: E402

# PyTorch's name of a parameter to ours, by its module; a linear's weight is [in, out] here and [out, in] there.
NAMES = {nn.Embedding: {"weight": "table"}, nn.LayerNorm: {"weight": "scale", "bias": "bias"}}
NAMES[nn.Linear] = {"weight": "w", "bias": "b"}


def by_path(model, value_of):
    tensors = {}
    for name, module in model.named_modules():
        for theirs, ours in NAMES.get(type(module), {}).items():
            value = value_of(getattr(module, theirs)).detach()
            path = "/".join(["gpt", *name.split("."), ours])
            tensors[path] = (value.T if ours == "w" else value).contiguous().clone()
    return tensors


def outcome_of(model, inputs, targets, autocast=False):
    """Loss, and gradients by path."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(inputs, targets)
    loss.backward()
    return loss.item(), by_path(model, lambda p: p.grad)


def our_outcome(args, layers, model, tokens, *flags):
    with tempfile.TemporaryDirectory() as folder:
        weights, data, gradients = (str(pathlib.Path(folder) / name) for name in ("weights", "tokens", "gradients"))
        save_file(by_path(model, lambda p: p), weights)
        pathlib.Path(data).write_bytes(tokens.to(torch.int32).numpy().tobytes())
        sizes = {"layers": layers} | {name: getattr(args, name) for name in SIZES}
        command = [args.stepper, "--weights", weights, "--tokens", data, "--gradients", gradients, *flags]
        command += [str(word) for name, size in sizes.items() for word in ("--" + name, size)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"bfloat16-error: {done.stderr.strip()}")
        return json.loads(done.stdout)["loss"], load_file(gradients)


def errors(outcome, truth):
    (loss, gradients), (true_loss, true_gradients) = outcome, truth
    assert gradients.keys() == true_gradients.keys()
    off = sum((gradients[path].double() - g).square().sum().item() for path, g in true_gradients.items())
    return abs(loss / true_loss - 1), (off / sum(g.square().sum().item() for g in true_gradients.values())) ** 0.5


def worst(outcome, truth, count):
    """The parameters with the largest share of what all gradients are off."""
    off = {path: (outcome[1][path].double() - g).square().sum().item() for path, g in truth[1].items()}
    total = sum(off.values())
    return [(path, value / total) for path, value in sorted(off.items(), key=lambda item: -item[1])[:count]]


SIZES = {"dims": 64, "heads": 4, "context": 64, "batch": 4, "vocabulary": 256}


def parse_arguments():
    parser = argparse.ArgumentParser(prog="./run bench bfloat16-error", description=__doc__.splitlines()[0])
    parser.add_argument("--stepper", required=True, help="the program gradients_remat (./run gives it)")
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser.add_argument("--layers", type=numbers, default="1,4,8,24")
    for name, size in SIZES.items():
        parser.add_argument("--" + name, type=int, default=size)
    parser.add_argument("--deviation", type=float, default=0, help="of all matrices; 0: as at the start of training")
    parser.add_argument("--seeds", type=int, default=3, help="models of each depth, whose errors are averaged")
    parser.add_argument("--worst", type=int, default=0, help="parameters to name, by their share of the error")
    return parser.parse_args()


def main():
    args = parse_arguments()
    print(f"{'layers':>8}  {'':16}{'loss error':>12}{'gradient error':>16}{'/ autocast':>12}")
    for layers in args.layers:
        sums = {}
        for seed in range(1, args.seeds + 1):
            torch.manual_seed(seed)
            model = Gpt(args.vocabulary, args.context, layers, args.dims, args.heads, bias=True)
            for parameter in model.parameters():
                if args.deviation and parameter.dim() >= 2:
                    nn.init.normal_(parameter, std=args.deviation)
            tokens = torch.randint(args.vocabulary, (args.batch * args.context + 1,))
            inputs, targets = (part.view(args.batch, args.context) for part in (tokens[:-1], tokens[1:]))
            truth = outcome_of(model.double(), inputs, targets)
            outcomes = {"autocast": outcome_of(model.float(), inputs, targets, autocast=True)}
            for name, stream in (("float stream", "accum"), ("bfloat16 stream", "compute")):
                outcomes[name] = our_outcome(args, layers, model, tokens, "--skip-stream", stream)
            for name, outcome in outcomes.items():
                sums[name] = [a + b for a, b in zip(sums.get(name, (0, 0)), errors(outcome, truth))]
        for name, (loss, gradient) in sums.items():
            ratio = gradient / sums["autocast"][1]
            print(f"{layers:8}  {name:16}{loss / args.seeds:12.2e}{gradient / args.seeds:16.2e}{ratio:12.2f}", flush=True)
            if args.worst:
                for path, share in worst(outcomes[name], truth, args.worst):
                    print(f"{'':12}{share:6.1%} {path}")


if __name__ == "__main__":
    main()
