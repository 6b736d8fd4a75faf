"""Writes optimizers.json beside this file: what optimizers of PyTorch make of parameters in float64, after some steps.

    ./run peers                               prints the Python to use
    python tests/golden/make_optimizers.py

Start values and gradients are given by `number`, as in tests/optim/golden_test.cpp. Lion, which PyTorch has not, is the
update of its authors' program, github.com/google/automl/tree/master/lion, line by line.
"""

import json
import pathlib

import torch
from torch.optim import SGD, Adafactor, AdamW, Muon

SHAPES = {"tall": (9, 4), "wide": (3, 11), "square": (5, 5), "vector": (7,), "cube": (2, 3, 5)}
STEPS, SHOWN = 6, (1, 6)


def number(seed, i):
    return ((i * 7919 + seed * 104729) % 2003 - 1001) / 1001


def filled(seed, shape):
    size = torch.Size(shape).numel()
    return torch.tensor([number(seed, i) for i in range(size)], dtype=torch.float64).reshape(shape)


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                mean, (beta1, beta2) = state["exp_avg"], group["betas"]
                update = mean * beta1 + p.grad * (1 - beta1)
                p.add_(update.sign_(), alpha=-group["lr"])
                mean.mul_(beta2).add_(p.grad, alpha=1 - beta2)


def muon(**settings):
    """Matrices by Muon, which takes them as [out, in]; the rest by AdamW."""
    return lambda params: [
        Muon([p for p in params if p.ndim == 2], **settings),
        AdamW([p for p in params if p.ndim != 2], weight_decay=0.3),
    ]


def one(kind, **settings):
    return lambda params: [kind(params, lr=1.0, **settings)]


CASES = {
    "adamw": one(AdamW, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-6),
    "sgd": one(SGD),
    "sgd_momentum": one(SGD, momentum=0.9, dampening=0.25),
    "sgd_nesterov": one(SGD, momentum=0.8, nesterov=True, weight_decay=0.3),
    "lion": one(Lion, betas=(0.9, 0.99), weight_decay=0.3),
    "adafactor": one(Adafactor),
    "adafactor_decay": one(Adafactor, weight_decay=0.3, beta2_decay=-0.7, eps=(1e-4, 0.7), d=1.5),
    "muon": muon(),
    "muon_plain": muon(momentum=0.8, nesterov=False, weight_decay=0.0, ns_steps=3, adjust_lr_fn="match_rms_adamw"),
}


def train(name, make):
    is_transposed = name.startswith("muon")
    params = {}
    for i, (key, shape) in enumerate(SHAPES.items()):
        value = filled(i, shape)
        params[key] = torch.nn.Parameter(value.T.contiguous() if is_transposed and value.ndim == 2 else value)
    optimizers = make(list(params.values()))
    shown = {}
    for step in range(1, STEPS + 1):
        for i, (key, p) in enumerate(params.items()):
            grad = filled(10 * step + i, SHAPES[key]) / step
            p.grad = grad.T.contiguous() if is_transposed and grad.ndim == 2 else grad
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.05 / step
            optimizer.step()
        if step in SHOWN:
            shown[step] = {key: [float(f"{x:.10g}") for x in (p.T if is_transposed and p.ndim == 2 else p).flatten().tolist()]
                           for key, p in params.items()}
    return shown


def main():
    golden = {"made_by": f"tests/golden/make_optimizers.py, PyTorch {torch.__version__}, float64"}
    golden |= {name: train(name, make) for name, make in CASES.items()}
    text = json.dumps(golden).replace(', "', ',\n"')  # one tensor a line
    (pathlib.Path(__file__).resolve().parent / "optimizers.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
