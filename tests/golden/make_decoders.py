"""Writes small models of each family of decoders that are read, beside this file: NAME.gguf holds random weights, and
as metadata ids with the logits and the loss that transformers computes of them; NAME_gradients.gguf holds the gradient
of that loss where NAME.gguf has the weight; the folder NAME is the same model as transformers saves it.

    ./run peers                               prints the Python to use
    python -m pip install transformers gguf==0.19.0
    python tests/golden/make_decoders.py
"""

import pathlib

import gguf
import numpy
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

here = pathlib.Path(__file__).resolve().parent
VOCABULARY, CONTEXT, DIMS, HIDDEN, LAYERS, HEADS, KV_HEADS = 19, 16, 16, 24, 2, 4, 2
EPSILON, BASE = 1e-5, 500.0
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": DIMS,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": EPSILON,
    "rope_theta": BASE,
    "rope_parameters": {"rope_type": "default", "rope_theta": BASE},
    "attn_implementation": "eager",
}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**COMMON, tie_word_embeddings=True), gguf.MODEL_ARCH.LLAMA),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**COMMON, tie_word_embeddings=False), gguf.MODEL_ARCH.QWEN2),
}


def side_by_side(rows, heads):
    """Rows of a projection in the order of llama.cpp: those that rotary turns together lie side by side."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write(path, family, arch, tensors, metadata):
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIMS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(BASE)
    if family == "llama":
        writer.add_rope_dimension_count(DIMS // HEADS)
    for key, values in metadata.items():
        writer.add_array(key, values)
    names = gguf.get_tensor_name_map(arch, LAYERS)
    for name, tensor in tensors.items():
        rows = tensor.detach().to(torch.float32).numpy()
        if family == "llama" and ".q_proj." in name:
            rows = side_by_side(rows, HEADS)
        if family == "llama" and ".k_proj." in name:
            rows = side_by_side(rows, KV_HEADS)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), numpy.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    for family, (model_of, config, arch) in FAMILIES.items():
        torch.manual_seed(7)
        model = model_of(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        model.save_pretrained(here / family, max_shard_size="8KB" if family == "qwen2" else "1GB")
        (here / family / "generation_config.json").unlink(missing_ok=True)
        model = model.double()
        ids = torch.randint(0, VOCABULARY, (2, 12))
        out = model(input_ids=ids, labels=ids)  # the loss is that of the next token
        out.loss.backward()
        parameters = dict(model.named_parameters())
        metadata = {
            "expected.ids": ids.flatten().to(torch.int32).tolist(),
            "expected.logits": out.logits.detach().flatten().tolist(),
            "expected.loss": [out.loss.item()],
        }
        write(here / f"{family}.gguf", family, arch, parameters, metadata)
        write(here / f"{family}_gradients.gguf", family, arch, {n: p.grad for n, p in parameters.items()}, {})


if __name__ == "__main__":
    main()
