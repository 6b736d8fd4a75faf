"""Writes a small T5 (version 1.1) beside this file, to the folder t5/: its random weights; gradients.safetensors holds the
gradient of the loss by the same names, and expected.json what went in, the loss and the logits, computed in float64.

    ./run peers                               prints the Python to use
    python -m pip install transformers
    python tests/golden/make_t5.py
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

folder = pathlib.Path(__file__).resolve().parent / "t5"
VOCABULARY, BATCH, SOURCE, TARGET = 13, 2, 9, 6
CONFIG = {"vocab_size": VOCABULARY, "d_model": 8, "d_kv": 3, "d_ff": 10, "num_layers": 2, "num_heads": 2, "dropout_rate": 0}
CONFIG |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "feed_forward_proj": "gated-gelu"}
# The head is the embedding in version 5 of transformers, whatever this says; but then logits are not scaled.
CONFIG |= {"tie_word_embeddings": False, "decoder_start_token_id": 1, "pad_token_id": None}


def main():
    torch.manual_seed(3)
    folder.mkdir(exist_ok=True)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**CONFIG)).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.4)
    parameters = dict(model.named_parameters())
    save_file({name: p.detach().clone() for name, p in parameters.items()}, folder / "model.safetensors")
    model = model.double()
    mask = torch.ones(BATCH, SOURCE, dtype=torch.int64)
    mask[0, 6:] = 0
    inputs = {"input_ids": torch.randint(VOCABULARY, (BATCH, SOURCE)), "attention_mask": mask}
    inputs |= {"decoder_input_ids": torch.randint(VOCABULARY, (BATCH, TARGET))}
    labels = torch.where(torch.rand(BATCH, TARGET) < 0.2, -100, torch.randint(VOCABULARY, (BATCH, TARGET)))
    out = model(**inputs, labels=labels)
    out.loss.backward()
    save_file({name: p.grad.float().contiguous() for name, p in model.named_parameters()}, folder / "gradients.safetensors")
    expected = {
        "made_by": f"tests/golden/make_t5.py, transformers {transformers.__version__}, float64",
        **{key: value.flatten().tolist() for key, value in inputs.items()},
        "labels": labels.flatten().tolist(),
        "loss": out.loss.item(),
        "logits": [float(f"{x:.9g}") for x in out.logits.flatten().tolist()],
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
