"""Reads prompts and writes tokens with transformers; prints a line of JSON for each file of prompts that is given."""

import argparse
import json
import pathlib
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="of the model")
    parser.add_argument("--gguf", required=True, help="its file")
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("prompts", nargs="+")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, gguf_file=arguments.gguf, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder, gguf_file=arguments.gguf)
    for file in arguments.prompts:
        ids = tokenizer(pathlib.Path(file).read_text(encoding="utf-8"), return_tensors="pt").input_ids
        with torch.inference_mode():
            start = time.perf_counter()
            output = model(ids, use_cache=True, logits_to_keep=1)
            read = time.perf_counter() - start
            start = time.perf_counter()
            for _ in range(arguments.length - 1):
                output = model(output.logits[:, -1:].argmax(-1), past_key_values=output.past_key_values, use_cache=True)
            written = (arguments.length - 1) / (time.perf_counter() - start)
        print(json.dumps({"tokens": ids.shape[1], "read_s": read, "written_per_s": written}), flush=True)


if __name__ == "__main__":
    main()
