"""Writes tokenizers/chat.json: conversations as transformers' `apply_chat_template` writes them.

    python3 -m venv VENV && VENV/bin/pip install transformers==5.24.0 jinja2
    VENV/bin/python tests/golden/make_chat.py

The templates are those of SmolLM2-Instruct, Qwen2-Instruct without tools, Llama-3-Instruct, Gemma-2-it and (with a
system message) Gemma-3-it without images.
"""

import json
import pathlib

from transformers import PreTrainedTokenizerFast

folder = pathlib.Path(__file__).resolve().parent / "tokenizers"

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    r"{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    r"{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = QWEN2.split("{% if loop")[0] + QWEN2.split("{% endif %}", 1)[1]
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first_user_prefix = messages[0]['content'] + '\n\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set first_user_prefix = '' %}{% set loop_messages = messages %}"
    "{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
    "(first_user_prefix if loop.first else '') }}{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
# What the assistant says and the end of its turn, as transformers' masks know it.
ANSWERS = (
    "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}"
    "{{'\n'}}{% endfor %}"
)
TALKS = [
    [("user", "What is the capital of France?")],
    [("system", "Be brief."), ("user", " Hi \n"), ("assistant", "\tHello!\n\n"), ("user", "Why?")],
    [("user", "é 中文\u00a0"), ("assistant", "")],
]  # fmt: skip


def main():
    golden = []
    for name, template, bos in [
        ("smollm2", SMOLLM2, None), ("qwen2", QWEN2, None), ("chatml", CHATML, None),
        ("llama3", LLAMA3, "<|begin_of_text|>"), ("gemma", GEMMA, "<bos>"),
    ]:  # fmt: skip
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "smollm.json"), bos_token=bos)
        for talk in TALKS:
            for prompt in (False, True):
                messages = [{"role": role, "content": content} for role, content in talk]
                how = {"chat_template": template, "add_generation_prompt": prompt}
                text = tokenizer.apply_chat_template(messages, tokenize=False, **how)
                ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **how)
                has_markers = bos is None  # the others' are no tokens of this tokenizer
                mask = None
                if has_markers and not prompt and any(role == "assistant" for role, _ in talk):
                    marked = template.split("{{'<|im_start|>' + message")[0] + ANSWERS
                    how = {"chat_template": marked, "return_dict": True, "return_assistant_tokens_mask": True}
                    masked = tokenizer.apply_chat_template(messages, tokenize=True, **how)
                    assert masked["input_ids"] == ids
                    mask = masked["assistant_masks"]
                golden.append({"name": name, "template": template, "messages": talk, "prompt": prompt, "text": text,
                               "ids": ids if has_markers else None, "mask": mask})  # fmt: skip
    (folder / "chat.json").write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
