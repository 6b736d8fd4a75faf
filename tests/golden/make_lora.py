"""Writes adapters that PEFT makes for the small llama beside this file: the folder lora holds them as PEFT saves them,
and lora.safetensors ids, the logits and the loss that PEFT computes with them, and the gradient of each half.

    ./run peers                               prints the Python to use
    python -m pip install transformers peft==0.21.0
    python tests/golden/make_lora.py
"""

import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

here = pathlib.Path(__file__).resolve().parent
torch.manual_seed(11)
base = LlamaForCausalLM.from_pretrained(here / "llama", attn_implementation="eager", dtype=torch.float32)
config = LoraConfig(
    task_type="CAUSAL_LM",
    r=3,
    lora_alpha=5,
    use_rslora=True,
    target_modules=["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"],
)
model = get_peft_model(base, config)
for name, parameter in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(parameter, std=0.3)
ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
output = model(input_ids=ids, labels=ids)
output.loss.backward()
values = {"ids": ids.int(), "logits": output.logits.detach(), "loss": output.loss.detach().reshape(1)}
for name, parameter in model.named_parameters():
    if parameter.requires_grad:
        values["gradient." + name.replace(".default", "")] = parameter.grad
save_file({name: value.contiguous() for name, value in values.items()}, here / "lora.safetensors")
model.peft_config["default"].base_model_name_or_path = "llama"
model.save_pretrained(here / "lora")
(here / "lora" / "README.md").unlink(missing_ok=True)
