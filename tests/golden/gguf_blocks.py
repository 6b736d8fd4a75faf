"""Writes gguf_blocks.gguf beside this file: blocks of every format with the floats that they are, by the package gguf.

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0 numpy
    venv/bin/python tests/golden/gguf_blocks.py

Tensors `<format>.stored` and `<format>.values` belong together; `encode.<format>` is what `encode.values` become. The
metadata has a value of each type.
"""

import pathlib

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize, quantize

# Where the halves lie in a block that scale the rest.
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}
HALVES["Q6_K"] = [208]
EDGES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00]  # zeros, subnormal, normal, greatest, one


def random_blocks(rng, name, count):
    """Random bytes, with finite scales; the first blocks have edges for scales, and bytes that are all alike."""
    blocks = rng.integers(0, 256, (count, GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]), dtype=np.uint8)
    for block, byte in zip(range(len(EDGES)), [0x00, 0xFF, 0x88, 0x77] * 2):
        blocks[block] = byte
    for at in HALVES[name]:
        halves = rng.integers(0, 0x7C00, count).astype(np.uint16) | rng.choice([0, 0x8000], count).astype(np.uint16)
        halves[: len(EDGES)] = np.roll(EDGES, at)
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(count, 2)
    return blocks


def hard_to_round(rng):
    """Rows of 32 whose elements, over the greatest and times 127, lie at halves and right beside them."""
    rows = (rng.integers(-253, 254, (24, 32)) / 2).astype(np.float32)
    rows[:, 0] = 127
    rows[8:16, 1:] = np.nextafter(rows[8:16, 1:], np.float32(1e9))
    rows[16:, 1:] = np.nextafter(rows[16:, 1:], np.float32(-1e9))
    return rows


def main():
    rng = np.random.default_rng(1)
    here = pathlib.Path(__file__).resolve().parent
    writer = gguf.GGUFWriter(here / "gguf_blocks.gguf", "none")
    for name, dtype in [("uint8", GGUFValueType.UINT8), ("uint16", GGUFValueType.UINT16)]:
        writer.add_key_value(f"value.{name}", 2 ** (8 if name == "uint8" else 16) - 1, dtype)
    writer.add_int8("value.int8", -128)
    writer.add_int16("value.int16", -(2**15))
    writer.add_uint32("value.uint32", 2**32 - 1)
    writer.add_int32("value.int32", -(2**31))
    writer.add_uint64("value.uint64", 2**64 - 1)
    writer.add_int64("value.int64", -(2**63))
    writer.add_float32("value.float32", 1e-5)
    writer.add_float64("value.float64", 1e-5)
    writer.add_bool("value.bool", True)
    writer.add_string("value.string", "größer")
    writer.add_array("array.string", ["a", "", "<0x0A>", "Ġthe"])
    writer.add_array("array.int32", [3, -1, 2])
    writer.add_array("array.float32", [0.5, -1.25])
    writer.add_array("array.bool", [True, False])
    writer.add_array("array.array", [[1, 2], [3]])

    def add(name, blocks, dtype):
        stored = blocks.reshape(2, -1)
        values = dequantize(stored, dtype).astype(np.float32)
        writer.add_tensor(f"{name}.stored", stored, raw_dtype=dtype)
        writer.add_tensor(f"{name}.values", values)

    halves = np.concatenate([np.arange(0x0000, 0x8000, 61), np.arange(0x8000, 0x10000, 61), [0x7C00, 0xFC00], EDGES])
    halves = halves[: halves.size // 2 * 2].astype(np.uint16)
    add("F16", halves.view(np.uint8), GGMLQuantizationType.F16)
    add("BF16", halves.view(np.uint8), GGMLQuantizationType.BF16)
    for name in HALVES:
        elements = GGML_QUANT_SIZES[GGMLQuantizationType[name]][0]
        add(name, random_blocks(rng, name, 64 if elements == 32 else 12), GGMLQuantizationType[name])

    values = np.concatenate(
        [
            hard_to_round(rng),
            (rng.standard_normal((24, 32)) * 10.0 ** rng.uniform(-9, 4, (24, 1))).astype(np.float32),
            np.zeros((1, 32), np.float32),
            np.full((1, 32), -2.5, np.float32),
        ]
    )
    writer.add_tensor("encode.values", values)
    for name in ["F16", "BF16", "Q8_0"]:
        dtype = GGMLQuantizationType[name]
        writer.add_tensor(f"encode.{name}", quantize(values, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
