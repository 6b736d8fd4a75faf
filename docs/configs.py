"""Writes docs/configs.md, every field of every config and option struct, from the headers; --check fails if it is stale."""

import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
rooms = ["nn", "models", "ops", "optim", "autodiff", "distributed"]
field = re.compile(r"^\s+((?:[\w:]+)(?:<[^;={]*>)?\*?) (\w+[^;]*);(?:\s*// ?(.*))?$")


def split(names):
    """`a = 1, b{}` as [(a, 1), (b, "")]."""
    parts = re.split(r",\s*(?=\w+\s*(?:=|\{|,|$))", names)
    return [(m[1], (m[2] or "").strip()) for m in (re.match(r"(\w+)\s*(?:=\s*(.*)|\{.*\})?$", p.strip(), re.S) for p in parts) if m]


def rows(body):
    above, out = [], []
    for line in re.sub(r"(,)\n\s+(?!\s*//)", r"\1 ", body).splitlines():
        text = line.strip()
        if text.startswith("///"):
            above.append(text[3:].strip())
        elif text.startswith("//"):
            if out and len(line) - len(line.lstrip()) > 6:
                out[-1][3] += " " + text[2:].strip()
        elif (found := field.match(line)) and "(" not in found[1]:
            said = found[3] or " ".join(above)
            out += [[found[1], name, value, said] for name, value in split(found[2])]
            above = []
        else:
            above = []
    return out


def page():
    lines = ["# Configs and options", "",
             "Every field of the structs that layers, models, ops, optimizers and tapes are made with. Written by `docs/configs.py` from the",
             "headers, whose comments are the source; a test compares the two.", ""]
    for room in rooms:
        for header in sorted((root / "include/remat" / room).glob("*.hpp")):
            text = header.read_text()
            for name, body in re.findall(r"^ *struct (\w*(?:Config|Options|Masks)|Warmup\w+|Generation) \{\n(.*?)^ *\};", text, re.M | re.S):
                fields = rows(re.split(r"^.*operator\(\)", body, flags=re.M)[0])
                if not fields:
                    continue
                lines += [f"## {name}", "", f"`remat/{room}/{header.name}`", "", "| field | type | default | meaning |", "|---|---|---|---|"]
                for type_, field_name, value, said in fields:
                    cells = [f"`{field_name}`", f"`{type_}`", f"`{value}`" if value else "-", said or "-"]
                    lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
                lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    target, text = root / "docs/configs.md", page()
    if "--check" not in sys.argv:
        target.write_text(text)
    elif target.read_text() != text:
        sys.exit("docs/configs.md differs from the headers: run python3 docs/configs.py")
