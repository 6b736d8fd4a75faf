"""Writes nf4_blocks.gguf beside this file: floats and what NF4 makes of them, by the package bitsandbytes.

    python3 -m venv venv && venv/bin/pip install bitsandbytes==0.50.2 torch==2.13.0 gguf==0.19.0 numpy
    venv/bin/python tests/golden/nf4_blocks.py

Blocks of 64 elements in rows of 128; `quantized` are the floats that `values` become.
"""

import pathlib

import gguf
import numpy as np
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit


def main():
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((12, 128)) * 10.0 ** rng.uniform(-4, 2, (12, 1))).astype(np.float32)
    values[3, :64] = 0
    values[4, 70] = -30  # one far from the rest
    packed, state = quantize_4bit(torch.from_numpy(values), blocksize=64, quant_type="nf4")
    quantized = dequantize_4bit(packed, state).numpy()
    assert quantized.dtype == np.float32 and quantized.shape == values.shape
    writer = gguf.GGUFWriter(pathlib.Path(__file__).resolve().parent / "nf4_blocks.gguf", "none")
    writer.add_tensor("values", values)
    writer.add_tensor("quantized", quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
