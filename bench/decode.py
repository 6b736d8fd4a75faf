#!/usr/bin/env python3
"""SmolLM2-135M reads a short and a long prompt and writes tokens, beside transformers in float32: `./run bench decode`.
Programs run one after another in rounds; the table has medians and the best of each."""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import tempfile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="generate, as `run` builds it")
    parser.add_argument("--python", required=True, help="with torch, transformers, gguf")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="text for the long prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=64, help="tokens that are written")
    arguments = parser.parse_args()
    here = pathlib.Path(__file__).resolve().parent
    model = pathlib.Path(arguments.model)
    work = pathlib.Path(tempfile.mkdtemp(prefix="remat_decode_"))
    text = pathlib.Path(arguments.data).read_text(encoding="utf-8", errors="replace")
    prompts = {"short": "Once upon a time", "long": text[:7800]}  # about 2,048 tokens
    files = []
    for name, prompt in prompts.items():
        (work / name).write_text(prompt, encoding="utf-8")
        files.append(str(work / name))

    def ours(*flags):
        results = []
        for prompt in prompts.values():
            command = [arguments.program, "--model", arguments.model, "--raw", "--prompt", prompt, "--temperature", "0"]
            command += ["--length", str(arguments.length), *flags]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stderr
            found = re.search(r"(\d+) tokens read in ([\d.]+) s, \d+ written at ([\d.]+)", printed)
            results.append({"tokens": int(found[1]), "read_s": float(found[2]), "written_per_s": float(found[3])})
        return results

    def transformers():
        command = [arguments.python, str(here / "peers" / "decode_transformers.py"), "--folder", str(model.parent)]
        command += ["--gguf", model.name, "--length", str(arguments.length), *files]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    runs = {
        "remat, weights as stored": ours,
        "remat, floats": lambda: ours("--floats"),
        "transformers, floats": transformers,
    }
    results = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            results[name].append(run())
    tokens = [each["tokens"] for each in results["transformers, floats"][0]]
    print(f"{'':28}{'tokens/s written':>18}{'best':>8}{f'read {tokens[0]}, s':>14}{f'read {tokens[1]}, s':>14}{'best':>8}")
    for name, rounds in results.items():
        written = [each["written_per_s"] for each, _ in rounds]
        short, long = ([pair[i]["read_s"] for pair in rounds] for i in (0, 1))
        print(
            f"{name:28}{statistics.median(written):18.1f}{max(written):8.1f}{statistics.median(short):14.2f}"
            f"{statistics.median(long):14.2f}{min(long):8.2f}"
        )


if __name__ == "__main__":
    main()
