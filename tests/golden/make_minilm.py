"""Writes tests/golden/minilm.safetensors, which tests/real_weights/minilm_test.cpp expects: sentence vectors by transformers.

    ./run peers                               prints the Python to use
    python -m pip install transformers
    python tests/golden/make_minilm.py FOLDER of all-MiniLM-L6-v2
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

TEXTS = [
    "A training step forgets most of what its forward pass computed.",
    "Backward asks for activations again, and they are recomputed!",
    "naïve café: déjà vu — 東京 2026",
    "Memory is traded for time. " * 40,  # longer than the 128 tokens that its tokenizer keeps
]


def main():
    folder = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state.double()
    mask = batch["attention_mask"].double().unsqueeze(2)
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    out = pathlib.Path(__file__).parent / "minilm.safetensors"
    save_file({"ids": batch["input_ids"].int(), "lengths": mask.sum((1, 2)).int(), "vectors": vectors.float()}, out)
    print((vectors @ vectors.T).numpy().round(4))


if __name__ == "__main__":
    main()
