"""Writes beams.json beside this file: what transformers finds by beam search with the small models that make_decoders.py
made, for several settings; each continuation without what fills it up.

    python tests/golden/make_beams.py
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM

here = pathlib.Path(__file__).resolve().parent
PROMPTS = ([3, 1, 4], [7], [5, 9, 2, 6, 5])
SETTINGS = [  # beams, length, length_penalty, early_stopping, stop tokens; the three ways to stop give three results
    (2, 8, 1.0, False, []),
    (4, 10, 1.0, True, [14]),
    (3, 10, 1.0, False, [3, 8, 14]),
    (3, 10, 1.0, True, [3, 8, 14]),
    (3, 10, 1.0, "never", [3, 8, 14]),
    (3, 10, 1.0, False, [0, 5, 9, 14]),
    (3, 10, 1.0, "never", [0, 5, 9, 14]),
    (3, 10, 0.0, "never", [12, 14]),
    (3, 10, 2.0, False, [12, 14]),
    (3, 10, -1.0, True, [12, 14]),
    (5, 1, 1.0, False, [4]),
]


def searched(model, prompt, beams, length, length_penalty, early_stopping, stop):
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=length,
        do_sample=False,
        eos_token_id=stop or None,
        pad_token_id=0,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        output_scores=True,
        return_dict_in_generate=True,
    )
    counts = (out.beam_indices >= 0).sum(-1).tolist()
    return [
        {"tokens": sequence[len(prompt) :][:count].tolist(), "score": score.item()}
        for sequence, count, score in zip(out.sequences, counts, out.sequences_scores)
    ]


def main():
    cases = []
    for family in ("llama", "gemma2"):
        model = AutoModelForCausalLM.from_pretrained(here / family, dtype=torch.float64).eval()
        for prompt in PROMPTS:
            for setting in SETTINGS:
                beams, length, length_penalty, early_stopping, stop = setting
                cases.append({
                    "family": family,
                    "prompt": prompt,
                    "beams": beams,
                    "length": length,
                    "length_penalty": length_penalty,
                    "early_stopping": str(early_stopping).lower(),
                    "stop": stop,
                    "expected": searched(model, prompt, *setting),
                })  # fmt: skip
    lines = ",\n".join(json.dumps(case) for case in cases)
    (here / "beams.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
