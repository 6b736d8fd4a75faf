"""Writes adapters that PEFT makes for small models beside this file: the folders lora, lora_falcon, lora_gpt2, lora_embedding,
lora_head (of its own), lora_tied_head and dora hold them as PEFT saves them, and files of the same names ids, the logits and the loss that PEFT computes with them, and the gradient of
each half, with DoRA of the magnitudes. Those of lora_falcon are of query and value inside query_key_value: rank 4 of 2 x 2, B in
blocks.

    ./run peers                               prints the Python to use
    python -m pip install transformers peft==0.21.0
    python tests/golden/make_lora.py
"""

import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

here = pathlib.Path(__file__).resolve().parent


def write(name, base, change=lambda model: None, **settings):
    torch.manual_seed(11)
    base_model = AutoModelForCausalLM.from_pretrained(here / base, attn_implementation="eager", dtype=torch.float32)
    model = get_peft_model(base_model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for parameter_name, parameter in model.named_parameters():
        if "lora_magnitude" in parameter_name:
            parameter.data *= 1 + 0.3 * torch.randn_like(parameter)
        elif "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        change(model)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
    output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    values = {"ids": ids.int(), "logits": output.logits.detach(), "loss": output.loss.detach().reshape(1)}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            values["gradient." + parameter_name.replace(".default", "")] = parameter.grad
    save_file({key: value.contiguous() for key, value in values.items()}, here / f"{name}.safetensors")
    model.peft_config["default"].base_model_name_or_path = base
    model.peft_config["default"].target_modules = sorted(settings["target_modules"])
    model.save_pretrained(here / name)
    (here / name / "README.md").unlink(missing_ok=True)


def query_and_value(model):
    """Of B [F, 4] columns 0 and 1 are for the rows of queries, 2 and 3 for those of values, the others 0."""
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // config.num_kv_heads
    for name, b in model.named_parameters():
        if "query_key_value.lora_B" in name:
            place = torch.arange(b.shape[0]) // head % (group + 2)
            b[place >= group, :2] = 0
            b[place != group + 1, 2:] = 0


if __name__ == "__main__":
    llama = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
    write("lora", "llama", r=3, lora_alpha=5, use_rslora=True, target_modules=llama)
    write("lora_falcon", "falcon_40b", query_and_value, r=2, lora_alpha=3, rank_pattern={"query_key_value": 4},
          alpha_pattern={"query_key_value": 6}, target_modules=["query_key_value", "dense"])
    write("dora", "llama", r=2, lora_alpha=3, use_dora=True, target_modules=["q_proj", "v_proj", "down_proj"])
    write("lora_embedding", "llama", r=2, lora_alpha=3, target_modules=["embed_tokens", "v_proj"])
    write("lora_head", "qwen2", r=2, lora_alpha=3, target_modules=["lm_head", "v_proj"])
    write("lora_tied_head", "llama", r=2, lora_alpha=3, target_modules=["lm_head", "v_proj"])
    write("lora_gpt2", "gpt2", r=3, lora_alpha=5, fan_in_fan_out=True, target_modules=["c_attn", "c_fc"])
