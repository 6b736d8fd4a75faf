"""A PyTorch twin of examples/train_gpt.cpp: the same model, data split, schedule, optimizer and evaluation.

    ./run peers                                           prints the Python to use
    python bench/peers/gpt_torch.py --data FILE           nanoGPT's CPU setting, train_gpt's `--preset nanogpt-cpu`

Flags have train_gpt's names. The last line of the output is one JSON object: time, validation loss, memory.
"""

import argparse
import json
import math
import pathlib
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    def __init__(self, dims, heads, bias):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dims, 3 * dims, bias=bias)
        self.out = nn.Linear(dims, dims, bias=bias)

    def forward(self, x):
        batch, length, dims = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, dims // self.heads).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(context.transpose(1, 2).reshape(batch, length, dims))


class FeedForward(nn.Module):
    def __init__(self, dims, bias):
        super().__init__()
        self.ffn1 = nn.Linear(dims, 4 * dims, bias=bias)
        self.ffn2 = nn.Linear(4 * dims, dims, bias=bias)

    def forward(self, x):
        return self.ffn2(F.gelu(self.ffn1(x)))


class TransformerLayer(nn.Module):
    def __init__(self, dims, heads, bias):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dims, bias=bias)
        self.attention = Attention(dims, heads, bias)
        self.ffn_norm = nn.LayerNorm(dims, bias=bias)
        self.ffn = FeedForward(dims, bias)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class Gpt(nn.Module):
    """Modules carry the names of remat::models::Gpt, so that parameters can be matched by path."""

    def __init__(self, vocabulary, context, layers, dims, heads, bias, tied=True, remat=False):
        super().__init__()
        self.remat = remat
        self.embedding = nn.Embedding(vocabulary, dims)
        self.positions = nn.Embedding(context, dims)
        self.decoder = nn.ModuleDict({f"layer_{i}": TransformerLayer(dims, heads, bias) for i in range(layers)})
        self.final_norm = nn.LayerNorm(dims, bias=bias)
        self.head = None if tied else nn.Linear(dims, vocabulary, bias=False)
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                residual = name.endswith((".out", ".ffn2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def logits(self, tokens):
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for layer in self.decoder.values():
            x = checkpoint(layer, x, use_reentrant=False) if self.remat else layer(x)
        return F.linear(self.final_norm(x), (self.head or self.embedding).weight)

    def forward(self, tokens, targets):
        """The mean loss in nats."""
        return F.cross_entropy(self.logits(tokens).flatten(0, 1), targets.flatten())


def read_corpus(path):
    """The file's characters as tokens (its bytes when it is not UTF-8): to train on, to validate, vocabulary."""
    data = pathlib.Path(path).read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    numbers = {c: i for i, c in enumerate(sorted(set(text)))}
    tokens = torch.tensor([numbers[c] for c in text])
    train = int(0.9 * len(tokens))
    return tokens[:train], tokens[train:], len(numbers)


def random_batch(tokens, batch, context, generator):
    starts = torch.randint(len(tokens) - context, (batch,), generator=generator).tolist()
    inputs = torch.stack([tokens[i : i + context] for i in starts])
    targets = torch.stack([tokens[i + 1 : i + 1 + context] for i in starts])
    return inputs, targets


@torch.no_grad()
def validation_loss(model, tokens, batch, context):
    """Over windows side by side, the last one shorter: every token but the first is predicted once."""
    predictions = len(tokens) - 1
    full = predictions // context * context
    inputs, targets = tokens[:full].view(-1, context), tokens[1 : full + 1].view(-1, context)
    pieces = list(zip(inputs.split(batch), targets.split(batch)))
    if full < predictions:
        pieces.append((tokens[full:-1][None], tokens[full + 1 :][None]))
    return sum(model(x, y).item() * y.numel() for x, y in pieces) / predictions


def learning_rate(step, args):
    if step < args.warmup:
        return args.lr * (step + 1) / (args.warmup + 1)
    progress = (step - args.warmup) / (args.steps - args.warmup)
    return args.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (args.lr - args.min_lr)


def adamw(model, args):
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(args.beta1, args.beta2), eps=1e-8, fused=True)


def train_step(model, optimizer, inputs, targets, rate, clip):
    loss = model(inputs, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="text file to learn")
    settings = {"steps": 2000, "layers": 4, "dims": 128, "heads": 4, "context": 64, "batch": 12, "warmup": 100}
    settings |= {"lr": 1e-3, "min-lr": 1e-4, "beta1": 0.9, "beta2": 0.99, "weight-decay": 0.1, "clip": 1.0}
    settings |= {"seed": 1337, "threads": 0}
    for name, value in settings.items():
        parser.add_argument("--" + name, type=type(value), default=value)
    parser.add_argument("--bias", action="store_true", help="biases in linear layers and norms")
    parser.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    parser.add_argument("--out", type=pathlib.Path, help="folder for train.jsonl; none is written without it")
    args = parser.parse_args()
    args.warmup = min(args.warmup, args.steps - 1)
    args.min_lr = min(args.min_lr, args.lr)
    return args


def main():
    args = parse_arguments()
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train, validation, vocabulary = read_corpus(args.data)
    model = Gpt(vocabulary, args.context, args.layers, args.dims, args.heads, args.bias)
    optimizer = adamw(model, args)
    loss_of = torch.compile(model) if args.compile else model
    generator = torch.Generator().manual_seed(args.seed)

    log = []
    for step in range(args.steps):
        start = time.perf_counter()
        inputs, targets = random_batch(train, args.batch, args.context, generator)
        loss = train_step(loss_of, optimizer, inputs, targets, learning_rate(step, args), args.clip)
        log.append({"step": step, "loss": loss, "ms": 1e3 * (time.perf_counter() - start)})
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))

    times = [line["ms"] for line in log]
    result = {
        "system": "pytorch compiled" if args.compile else "pytorch",
        "steps": args.steps,
        "seconds": sum(times) / 1e3,
        "ms_per_step_median": statistics.median(times),
        "val_loss": validation_loss(model, validation, args.batch, args.context),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
