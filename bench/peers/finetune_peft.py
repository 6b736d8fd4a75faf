"""Finetunes with transformers, PEFT and PyTorch on the batches that `finetune --export` wrote; prints a line of JSON for
each step and for each held-out loss."""

import argparse
import json
import time

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def memory():
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {
        "anonymous_bytes": int(fields["RssAnon"].split()[0]) * 1024,
        "peak_resident_bytes": int(fields["VmHWM"].split()[0]) * 1024,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="of the model")
    parser.add_argument("--gguf", required=True, help="its file")
    parser.add_argument("--export", required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--min-lr", type=float, default=5e-5)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--full", action="store_true", help="train all weights")
    parser.add_argument("--apart", action="store_true", help="samples of a row do not see each other; else plain causal rows")
    parser.add_argument("--evaluate", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, gguf_file=arguments.gguf, dtype=torch.float32)
    if not arguments.full:
        model = PeftModel.from_pretrained(model, arguments.export + "/adapter", is_trainable=True)
    if arguments.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    data = load_file(arguments.export + "/batches.safetensors")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=arguments.lr, weight_decay=0.0)

    def loss_of(before, rows):
        inputs, targets, segments = (data[before + n][rows].long() for n in ("inputs", "targets", "segments"))
        more = {}
        if arguments.apart:
            length = inputs.shape[1]
            seen = (segments[:, :, None] == segments[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
            more["attention_mask"] = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
            begins = torch.cat([torch.zeros(len(inputs), 1, dtype=torch.long), (segments[:, 1:] != segments[:, :-1]).long()], 1)
            position = torch.arange(length).expand_as(inputs)
            more["position_ids"] = position - (position * begins).cummax(1).values
        logits = model(input_ids=inputs, use_cache=False, **more).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def held_out(step):
        if not arguments.evaluate:
            return
        model.eval()
        total = count = 0
        with torch.no_grad():
            for row in range(len(data["held_out_inputs"])):
                targets = int((data["held_out_targets"][row] >= 0).sum())
                if targets:
                    total += float(loss_of("held_out_", slice(row, row + 1))) * targets
                    count += targets
        model.train()
        print(json.dumps({"step": step, "held_out_loss": total / count}), flush=True)

    def rate(step):
        if step < arguments.warmup:
            return arguments.lr * (step + 1) / (arguments.warmup + 1)
        part = (step - arguments.warmup) / max(1, arguments.steps - arguments.warmup)
        return arguments.min_lr + (arguments.lr - arguments.min_lr) * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * part))))

    held_out(0)
    model.train()
    for step in range(arguments.steps):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss = loss_of("", slice(step * arguments.batch, (step + 1) * arguments.batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(json.dumps({"step": step + 1, "loss": float(loss), "ms": 1e3 * (time.perf_counter() - start), **memory()}), flush=True)
    held_out(arguments.steps)


if __name__ == "__main__":
    main()
