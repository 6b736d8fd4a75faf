"""Writes small BERTs beside this file, one folder in bert/ for each head, as transformers saves it: config.json and
model.safetensors; gradients.safetensors holds the gradient of the loss by the same names, and expected.json what went in,
the logits and the loss, computed in float64.

    ./run peers                               prints the Python to use
    python -m pip install transformers
    python tests/golden/make_bert.py
"""

import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

here = pathlib.Path(__file__).resolve().parent
VOCABULARY, CONTEXT, DIMS, HIDDEN, LAYERS, HEADS, TYPES, LABELS = 13, 9, 8, 12, 2, 2, 2, 3
BATCH, LENGTH = 3, 7
# A padding token's row would get no gradient from look-ups.
CONFIG = {"vocab_size": VOCABULARY, "hidden_size": DIMS, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
CONFIG |= {"intermediate_size": HIDDEN, "max_position_embeddings": CONTEXT, "type_vocab_size": TYPES, "pad_token_id": None}
CONFIG |= {"attn_implementation": "eager", "num_labels": LABELS}
NAMES = ["MaskedLM", "NextSentencePrediction", "PreTraining", "SequenceClassification", "TokenClassification"]
NAMES += ["MultipleChoice", "QuestionAnswering"]


def integers(below, *shape):
    return torch.randint(below, shape)


def labels_of(name, batch):
    """Arguments of the loss, and the loss in the terms of ours."""
    masked = integers(VOCABULARY, *batch)
    masked[torch.rand(masked.shape) < 0.6] = -100
    masked[0, 0] = 5
    return {
        "MaskedLM": {"labels": masked},
        "NextSentencePrediction": {"labels": integers(2, BATCH)},
        "PreTraining": {"labels": masked, "next_sentence_label": integers(2, BATCH)},
        "SequenceClassification": {"labels": integers(LABELS, BATCH)},
        "TokenClassification": {"labels": torch.where(torch.rand(batch) < 0.3, -100, integers(LABELS, *batch))},
        "MultipleChoice": {"labels": integers(2, BATCH)},
        "QuestionAnswering": {"start_positions": torch.tensor([0, 3, LENGTH + 5]), "end_positions": integers(LENGTH, BATCH)},
    }[name]


def main():
    torch.manual_seed(5)
    shutil.rmtree(here / "bert", ignore_errors=True)
    for name in NAMES:
        config = transformers.BertConfig(**CONFIG | ({"num_labels": 2} if name == "QuestionAnswering" else {}))
        model = getattr(transformers, f"BertFor{name}")(config).eval()
        for parameter in model.parameters():  # larger than at the start of training, so that no term is negligible
            torch.nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 and parameter.min() == 1 else 0.0, std=0.4)
        folder = here / "bert" / name
        model.save_pretrained(folder)
        model = model.double()
        shape = (BATCH, 2, LENGTH) if name == "MultipleChoice" else (BATCH, LENGTH)
        mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
        mask[0, 5:] = 0  # padding on the right, on the left, and none
        mask[1, :2] = 0
        if name == "MultipleChoice":
            mask = mask[:, None, :].expand(shape).contiguous()
        inputs = {"input_ids": integers(VOCABULARY, *shape), "token_type_ids": integers(TYPES, *shape), "attention_mask": mask}
        labels = labels_of(name, (BATCH, LENGTH))
        out = model(**inputs, **labels)
        out.loss.backward()
        logits = [out[key] for key in ("logits", "prediction_logits", "seq_relationship_logits", "start_logits", "end_logits") if key in out]
        save_file({key: p.grad.float().contiguous() for key, p in model.named_parameters()}, folder / "gradients.safetensors")
        expected = {
            "made_by": f"tests/golden/make_bert.py, transformers {transformers.__version__}, float64",
            "shape": list(shape),
            **{key: value.flatten().tolist() for key, value in (inputs | labels).items()},
            "loss": out.loss.item(),
            "logits": [[float(f"{x:.9g}") for x in values.flatten().tolist()] for values in logits],
        }
        (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
