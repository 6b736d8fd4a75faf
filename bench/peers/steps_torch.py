"""PyTorch's side of `./run bench peers`: fused attention and AdamW, with --compile all of the model compiled, with
--max-autotune by kernels that are measured first.

With --remat each layer is under torch.utils.checkpoint. bfloat16 is autocast over float32 parameters.
"""

import steps
import torch
import torch.nn.functional as F
from gpt_torch import Gpt


def attention_loss(qkv):
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).sum()


def compiled(function, flags):
    modes = {"--compile": "default", "--max-autotune": "max-autotune"}
    return torch.compile(function, mode=modes[flags[0]]) if flags else function


def attend(args, flags):
    dtype = torch.bfloat16 if args.dtype == "bfloat16" else torch.float32
    qkv = torch.from_numpy(steps.queries_keys_values(args)).to(dtype).requires_grad_()
    loss_of = compiled(attention_loss, flags)

    def step(inputs, targets):
        loss = loss_of(qkv)
        qkv.grad = None
        loss.backward()
        return loss.item()

    steps.serve(args, 0, step)


def main():
    args, rest = steps.parse_arguments(__doc__.splitlines()[0])
    assert rest in ([], ["--compile"], ["--max-autotune"]), rest
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    if args.attention:
        return attend(args, rest)
    model = Gpt(
        args.vocabulary, args.context, args.layers, args.dims, args.heads, args.bias, not args.untied, args.remat
    )
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": steps.WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=steps.LEARNING_RATE, betas=steps.BETAS, eps=steps.EPSILON, fused=True)
    loss_of = compiled(model, rest)

    def step(inputs, targets):
        inputs, targets = torch.from_numpy(inputs).long(), torch.from_numpy(targets).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"):
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), steps.CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    steps.serve(args, sum(p.numel() for p in model.parameters()), step)


if __name__ == "__main__":
    main()
