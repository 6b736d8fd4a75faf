"""Writes small models of each family of decoders that are read, beside this file: NAME.gguf holds random weights, and
as metadata ids with the logits and the loss that transformers computes of them; NAME_gradients.gguf holds the gradient
of that loss where NAME.gguf has the weight, and so does the folder NAME_gradients, which the newer ones have instead;
the folder NAME is the same model as transformers saves it.

    ./run peers                               prints the Python to use
    python -m pip install transformers gguf==0.19.0
    python tests/golden/make_decoders.py [family ...]
"""

import math
import pathlib
import shutil
import sys

import gguf
import numpy
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

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
# Small, for every fourth layer is another: none of its queries and keys is turned. A padding token would get no gradient.
SMOLLM3 = {**COMMON, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2}
SMOLLM3 = {**SMOLLM3, "num_key_value_heads": 1, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 20}
GPT2 = {**GPT2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "layer_norm_epsilon": 1e-4}
GPT2 = {**GPT2, "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager"}
# Heads that are together wider than the model.
QWEN3 = {**COMMON, "hidden_size": 12, "head_dim": 4, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
OLMO2 = {**COMMON, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
# Six layers, of which the last sees everything, with rotary tables of their own.
LOCAL_BASE, WINDOW = 100.0, 4
GEMMA3 = {**SMOLLM3, "num_hidden_layers": 6, "head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": WINDOW}
GEMMA3 = {**GEMMA3, "rope_parameters": {
    "sliding_attention": {"rope_type": "default", "rope_theta": LOCAL_BASE},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": BASE},
}}  # fmt: skip
GEMMA3.pop("rope_theta")
# Caps so low that they matter; three layers, of which that in the middle sees everything.
GEMMA2 = {**SMOLLM3, "num_hidden_layers": 3, "head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": WINDOW}
GEMMA2 = {**GEMMA2, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
GRANITE = {**COMMON, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "embedding_multiplier": 3.0}
GRANITE = {**GRANITE, "attention_multiplier": 0.3, "residual_multiplier": 0.22, "logits_scaling": 6.0}
# Four layers, of which the last sees everything; with YaRN it has frequencies that stay, are divided, and lie between.
OLMO3 = {**OLMO2, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2}
OLMO3 = {**OLMO3, "num_key_value_heads": 1, "sliding_window": WINDOW}
OLMO3 = {**OLMO3, "rope_parameters": {
    "sliding_attention": {"rope_type": "default", "rope_theta": BASE},
    "full_attention": {"rope_type": "default", "rope_theta": BASE},
}}  # fmt: skip
OLMO3.pop("rope_theta")
YARN = {"rope_type": "yarn", "rope_theta": BASE, "factor": 4.0, "attention_factor": 1.2, "beta_fast": 4.0}
YARN = {**YARN, "beta_slow": 0.5, "original_max_position_embeddings": 32}
OLMO3_YARN = {**OLMO3, "hidden_size": 16, "max_position_embeddings": 128}
OLMO3_YARN["rope_parameters"] = {**OLMO3["rope_parameters"], "full_attention": YARN}
# As the 7 B, the 40 B, the 11 B, and rw with ALiBi: of 12 heads, no power of two, four slopes are rounded.
FALCON = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
FALCON = {**FALCON, "ffn_hidden_size": 20, "layer_norm_epsilon": 1e-4, "max_position_embeddings": CONTEXT}
FALCON = {**FALCON, "rope_parameters": {"rope_type": "default", "rope_theta": BASE}, "attn_implementation": "eager"}
FALCON = {**FALCON, "bos_token_id": 1, "eos_token_id": 2}
FALCON_NEW = {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}
FALCON_RW = {**FALCON, "hidden_size": 24, "num_attention_heads": 12, "alibi": True, "bias": True}
# Eager attention of transformers 5.24 adds ALiBi twice, once in the mask; its default adds it once.
FALCON_RW = {**FALCON_RW, "multi_query": False, "parallel_attn": False, "attn_implementation": "sdpa"}
# Four frequencies: one that stays, one between, two that are divided.
LLAMA3 = {"rope_type": "llama3", "rope_theta": BASE, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = {**LLAMA3, "original_max_position_embeddings": 64}
SCALED = {**COMMON, "num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": LLAMA3}
SCALED = {**SCALED, "max_position_embeddings": 128}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**COMMON, tie_word_embeddings=True), gguf.MODEL_ARCH.LLAMA),
    "llama_scaled": (LlamaForCausalLM, LlamaConfig(**SCALED), gguf.MODEL_ARCH.LLAMA),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**COMMON, tie_word_embeddings=False), gguf.MODEL_ARCH.QWEN2),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config(**SMOLLM3), gguf.MODEL_ARCH.SMOLLM3),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2), gguf.MODEL_ARCH.GPT2),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**QWEN3, tie_word_embeddings=True), gguf.MODEL_ARCH.QWEN3),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(**OLMO2), gguf.MODEL_ARCH.OLMO2),
    "falcon": (FalconForCausalLM, FalconConfig(**FALCON), gguf.MODEL_ARCH.FALCON),
    "falcon_40b": (FalconForCausalLM, FalconConfig(**FALCON_NEW), gguf.MODEL_ARCH.FALCON),
    "falcon_11b": (FalconForCausalLM, FalconConfig(**FALCON_NEW, num_ln_in_parallel_attn=1), gguf.MODEL_ARCH.FALCON),
    "falcon_rw": (FalconForCausalLM, FalconConfig(**FALCON_RW), gguf.MODEL_ARCH.FALCON),  # read from its folder only
    "olmo3": (Olmo3ForCausalLM, Olmo3Config(**OLMO3), gguf.MODEL_ARCH.OLMO2),
    "olmo3_yarn": (Olmo3ForCausalLM, Olmo3Config(**OLMO3_YARN), gguf.MODEL_ARCH.OLMO2),
    "granite": (GraniteForCausalLM, GraniteConfig(**GRANITE), gguf.MODEL_ARCH.GRANITE),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**GEMMA2), gguf.MODEL_ARCH.GEMMA2),
    "gemma3_text": (Gemma3ForCausalLM, Gemma3TextConfig(**GEMMA3), gguf.MODEL_ARCH.GEMMA3),
}
OLDER = ("llama", "qwen2", "smollm3", "gpt2")


def side_by_side(rows, heads):
    """Rows of a projection in the order of llama.cpp: those that rotary turns together lie side by side."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def apart(rows, heads, groups):
    """Rows of Falcon's projection of query, key and value in the order of llama.cpp: all queries, all keys, all values."""
    grouped = rows.reshape(groups, heads // groups + 2, -1, *rows.shape[1:])
    parts = (grouped[:, :-2], grouped[:, -2], grouped[:, -1])
    return numpy.concatenate([part.reshape(-1, *rows.shape[1:]) for part in parts])


def rope_freqs(rope, pairs):
    """What llama.cpp divides the frequency of each pair by, of Llama 3.1."""
    context, low, high = (rope[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    turns = context * rope["rope_theta"] ** (-numpy.arange(pairs) / pairs) / (2 * numpy.pi)
    kept = numpy.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / rope["factor"] + kept)).astype(numpy.float32)


def write(path, family, arch, config, tensors, metadata):
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    layers, dims, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    writer.add_block_count(layers)
    writer.add_context_length(getattr(config, "max_position_embeddings", CONTEXT))
    writer.add_embedding_length(dims)
    is_falcon = family.startswith("falcon")
    hidden = "n_inner" if family == "gpt2" else "ffn_hidden_size" if is_falcon else "intermediate_size"
    writer.add_feed_forward_length(getattr(config, hidden))
    writer.add_head_count(heads)
    if family == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    elif is_falcon:
        kv_heads = 1 if config.multi_query and not config.new_decoder_architecture else config.num_kv_heads
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        writer.add_rope_freq_base(BASE)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(EPSILON)
        writer.add_rope_freq_base(BASE)
    if family in ("qwen3", "gemma2", "gemma3_text"):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if family == "gemma3_text":
        writer.add_sliding_window(WINDOW)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
        writer.add_float32("gemma3.rope.freq_base_swa", LOCAL_BASE)
    if family == "gemma2":
        writer.add_sliding_window(WINDOW)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if family == "olmo3_yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(YARN["factor"])
        writer.add_rope_scaling_orig_ctx_len(YARN["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(YARN["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(YARN["beta_slow"])
        writer.add_rope_scaling_attn_factors(YARN["attention_factor"] / (1 + 0.1 * math.log(YARN["factor"])))
    if family.startswith("olmo3"):
        writer.add_sliding_window(WINDOW)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    if family == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    is_paired = family in ("llama", "llama_scaled", "smollm3", "granite")
    if is_paired:
        writer.add_rope_dimension_count(dims // heads)
    for key, values in metadata.items():
        writer.add_array(key, values)
    if family == "llama_scaled":
        writer.add_tensor("rope_freqs.weight", rope_freqs(LLAMA3, dims // heads // 2))
    names = gguf.get_tensor_name_map(arch, layers)
    for name, tensor in tensors.items():
        rows = tensor.detach().to(torch.float32).numpy()
        if family.startswith("gemma") and name.endswith("norm.weight"):
            rows = rows + 1
        if is_paired and ".q_proj." in name:
            rows = side_by_side(rows, heads)
        if is_paired and ".k_proj." in name:
            rows = side_by_side(rows, config.num_key_value_heads)
        if is_falcon and "query_key_value" in name:
            rows = apart(rows, heads, kv_heads)
        if family == "gpt2" and ".c_" in name and rows.ndim == 2:  # transformers stores them as [inputs, outputs]
            rows = rows.T
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), numpy.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    for family in sys.argv[1:] or FAMILIES:
        model_of, config, arch = FAMILIES[family]
        torch.manual_seed(7)
        model = model_of(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
            if family.startswith("gemma") and parameter.dim() == 1:  # so that 1 + w, in its GGUF file, is exact
                parameter.data = (parameter.data * 4096).round() / 4096
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
        in_gguf = {} if family == "falcon_rw" else parameters
        write(here / f"{family}.gguf", family, arch, config, in_gguf, metadata)
        gradients = {name: parameter.grad for name, parameter in parameters.items()}
        if family in OLDER:
            write(here / f"{family}_gradients.gguf", family, arch, config, gradients, {})
            continue
        for parameter in parameters.values():
            parameter.data = parameter.grad.float()
        model.save_pretrained(here / f"{family}_gradients")
        (here / f"{family}_gradients/generation_config.json").unlink(missing_ok=True)
        shutil.copy(here / family / "config.json", here / f"{family}_gradients")


if __name__ == "__main__":
    main()
