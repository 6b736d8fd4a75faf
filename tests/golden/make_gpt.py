"""Writes gpt.json beside this file: a tiny GPT in float64 with its logits, loss and gradients, by PyTorch.

    ./run peers                               prints the Python to use
    python tests/golden/make_gpt.py
"""

import json
import pathlib
import sys

import torch
from torch import nn

here = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(here.parents[1] / "bench" / "peers"))
from gpt_torch import Gpt  # noqa: E402

CONFIG = {"vocabulary": 11, "context": 6, "layers": 2, "dims": 8, "heads": 2}
# PyTorch's name of a parameter to ours, by its module.
NAMES = {nn.Embedding: {"weight": "table"}, nn.LayerNorm: {"weight": "scale", "bias": "bias"}}
NAMES[nn.Linear] = {"weight": "w", "bias": "b"}


def by_path(model, value_of):
    """Our path to shape and values; a linear's weight is [in, out] here and [out, in] in PyTorch."""
    tensors = {}
    for name, module in model.named_modules():
        for theirs, ours in NAMES.get(type(module), {}).items():
            value = value_of(getattr(module, theirs))
            tensors["/".join(["gpt", *name.split("."), ours])] = as_json(value.T if ours == "w" else value)
    return dict(sorted(tensors.items()))


def as_json(tensor):
    return {"shape": list(tensor.shape), "values": tensor.detach().flatten().tolist()}


def main():
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    model = Gpt(**CONFIG, bias=True)
    for parameter in model.parameters():  # larger than at the start of training, so that no term is negligible
        nn.init.normal_(parameter, mean=1.0 if parameter.min() == 1 else 0.0, std=0.4)
    tokens = torch.randint(CONFIG["vocabulary"], (3, CONFIG["context"]))
    targets = torch.randint(CONFIG["vocabulary"], tokens.shape)
    loss = model(tokens, targets)
    loss.backward()
    golden = {
        "made_by": f"tests/golden/make_gpt.py, PyTorch {torch.__version__}, float64",
        "config": CONFIG,
        "tokens": as_json(tokens),
        "targets": as_json(targets),
        "logits": as_json(model.logits(tokens)),
        "loss": loss.item(),
        "parameters": by_path(model, lambda p: p),
        "gradients": by_path(model, lambda p: p.grad),
    }
    # One tensor a line: small, and a change shows in a diff.
    text = json.dumps(golden).replace('{"gpt/', '{\n"gpt/').replace('}, "', '},\n"')
    (here / "gpt.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
