"""Writes what a BERT gives beside its loss to the folder bert_options/ beside this file: a decoder with cross attention
(`LMHeadModel`), and an encoder that feeds forward by chunks (`MaskedLM`), both with a head mask, as transformers saves them:
config.json and model.safetensors; gradients.safetensors holds the gradient of the loss by the same names, of the memory and of
the head mask, too; expected.json what went in, the loss, logits, hidden states and attentions, computed in float64. Head
masks went out of transformers with version 5: what they did in version 4, to self and to cross attention, stands here.

    ./run peers                               prints the Python to use
    python -m pip install transformers
    python tests/golden/make_bert_options.py
"""

import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.bert import modeling_bert

here = pathlib.Path(__file__).resolve().parent
VOCABULARY, DIMS, LAYERS, HEADS, BATCH, LENGTH, MEMORY = 11, 8, 2, 2, 2, 6, 4
CONFIG = {"vocab_size": VOCABULARY, "hidden_size": DIMS, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
CONFIG |= {"intermediate_size": 12, "max_position_embeddings": 7, "pad_token_id": None, "attn_implementation": "eager"}


def digits(values):
    return [float(f"{x:.9g}") for x in values.flatten().tolist()]


def write(name, model, inputs, labels, memory):
    folder = here / "bert_options" / name
    for parameter in model.parameters():  # larger than at the start of training, so that no term is negligible
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 and parameter.min() == 1 else 0.0, std=0.4)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = model.double()
    head_mask = torch.tensor([[1.0, 0.25], [0.0, 1.5]], dtype=torch.float64, requires_grad=True)
    plain = modeling_bert.eager_attention_forward

    def masked(module, query, key, value, attention_mask, **kwargs):
        _, weights = plain(module, query, key, value, attention_mask, **kwargs)
        weights = weights * head_mask[module.layer_idx].view(1, -1, 1, 1)
        return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights

    modeling_bert.eager_attention_forward = masked
    out = model(**inputs, **memory, labels=labels, output_hidden_states=True, output_attentions=True)
    modeling_bert.eager_attention_forward = plain
    out.loss.backward()
    gradients = {key: p.grad.float().contiguous() for key, p in model.named_parameters()} | {"head_mask": head_mask.grad.float()}
    if memory:
        gradients["encoder_hidden_states"] = memory["encoder_hidden_states"].grad.float()
    save_file(gradients, folder / "gradients.safetensors")
    expected = {
        "made_by": f"tests/golden/make_bert_options.py, transformers {transformers.__version__}, float64",
        "shape": [BATCH, LENGTH],
        **{key: value.flatten().tolist() for key, value in inputs.items()},
        **{key: value.flatten().tolist() for key, value in memory.items()},
        "labels": labels.flatten().tolist(),
        "head_mask": head_mask.flatten().tolist(),
        "loss": out.loss.item(),
        "logits": digits(out.logits),
        "hidden_states": [digits(x) for x in out.hidden_states],
        "attentions": [digits(x) for x in out.attentions],
        "cross_attentions": [digits(x) for x in out.cross_attentions] if memory else [],
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def main():
    torch.manual_seed(8)
    shutil.rmtree(here / "bert_options", ignore_errors=True)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, 4:] = 0  # padding on the right, and on the left
    mask[1, :2] = 0
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH))
    inputs = {"input_ids": ids, "token_type_ids": torch.randint(2, (BATCH, LENGTH)), "attention_mask": mask}
    config = transformers.BertConfig(**CONFIG, chunk_size_feed_forward=2)
    labels = torch.where(torch.rand(BATCH, LENGTH) < 0.4, torch.randint(VOCABULARY, (BATCH, LENGTH)), -100)
    write("MaskedLM", transformers.BertForMaskedLM(config).eval(), inputs, labels, {})

    config = transformers.BertConfig(**CONFIG, is_decoder=True, add_cross_attention=True)
    labels = torch.where(mask == 1, ids, -100)
    labels[1, 2] = -100  # what stands before is padding
    memory_mask = torch.ones(BATCH, MEMORY, dtype=torch.int64)
    memory_mask[1, 3:] = 0
    states = torch.randn(BATCH, MEMORY, DIMS, dtype=torch.float64).round(decimals=6).requires_grad_()
    memory = {"encoder_hidden_states": states, "encoder_attention_mask": memory_mask}
    write("LMHeadModel", transformers.BertLMHeadModel(config).eval(), inputs, labels, memory)


if __name__ == "__main__":
    main()
