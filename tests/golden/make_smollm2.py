"""Prints what tests/real_weights/smollm2_test.cpp expects, by transformers from the same GGUF file.

    ./run peers                               prints the Python to use
    python -m pip install transformers gguf==0.19.0 accelerate
    python tests/golden/make_smollm2.py FILE.gguf
"""

import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (
    "Rematerialization trades time for memory: a training step forgets most of what its forward pass computed, and "
    "computes it again when the backward pass asks for it."
)


def main():
    path = pathlib.Path(sys.argv[1])
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    ids = tokenizer(TEXT, return_tensors="pt", add_special_tokens=False)["input_ids"]
    model.zero_grad()
    logits = model(input_ids=ids).logits[0, :-1]
    # In double: over 49,152 classes cross_entropy of floats is 2e-5 off.
    loss = torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:])
    loss.backward()
    print("ids", ids[0].tolist())
    print(f"loss {loss.item():.7f}")
    for name in ["model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.29.mlp.down_proj", "model.norm"]:
        print(f"norm of the gradient of {name}: {model.get_submodule(name).weight.grad.norm().item():.7f}")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                         add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**chat, max_new_tokens=20, do_sample=False)
    print("chat", chat["input_ids"][0].tolist())
    print("answer", out[0, chat["input_ids"].shape[1]:].tolist())


if __name__ == "__main__":
    main()
