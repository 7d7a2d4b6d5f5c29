#!/usr/bin/env python3
"""Writes tests/data/quantised: blocks of each type and what gguf-py (package gguf) makes of them.

    python tools/make_quantised_fixtures.py tests/data/quantised

<type>.blocks  random bytes as blocks, the scales' exponents kept finite
<type>.f32     their values by gguf.quants.dequantize
values.f32     numbers to quantise; values.<type> is what llama.cpp's ggml_quantize_chunk makes of them
nf4.code, nf4.f32, values.nf4
               bitsandbytes' 16 levels; and of values.f32 its numbers of the levels, two a byte, the first one high, and
               what it makes of them with magnitudes of eight bits (double quantisation)

    python tools/make_quantised_fixtures.py tests/data/quantised --nf4    those alone; needs torch and bitsandbytes 0.50.2
"""
import ctypes
import pathlib
import sys

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type

ELEMENTS = 1024
SCALES = {  # byte offsets of a block's float16 fields
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    Type.MXFP4: [],
}


def ggml_quantize_chunk():
    """llama.cpp's quantisers, without importance weights."""
    import llama_cpp
    chunk = ctypes.CDLL(str(next((pathlib.Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*")))).ggml_quantize_chunk
    chunk.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                      ctypes.c_int64, ctypes.POINTER(ctypes.c_float)]
    chunk.restype = ctypes.c_size_t
    return chunk


def nf4(folder: pathlib.Path) -> None:
    import torch
    from bitsandbytes import functional
    values = torch.from_numpy(np.fromfile(folder / "values.f32", "<f4"))
    bits, state = functional.quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=True)
    (folder / "nf4.code").write_bytes(state.code.numpy().astype("<f4").tobytes())
    (folder / "values.nf4").write_bytes(bits.numpy().tobytes())
    (folder / "nf4.f32").write_bytes(functional.dequantize_4bit(bits, state).numpy().astype("<f4").tobytes())


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    for kind, offsets in SCALES.items():
        block, size = GGML_QUANT_SIZES[kind]
        source = np.random.default_rng(8) if kind == Type.MXFP4 else random  # which came later
        blocks = source.integers(0, 256, (ELEMENTS // block, size), dtype=np.uint8)
        for offset in offsets:
            scales = random.integers(0, 1 << 16, len(blocks), dtype=np.uint16)
            scales[(scales & 0x7C00) == 0x7C00] ^= 0x4000  # neither infinite nor NaN; subnormals and signs stay
            scales[0] = 0x0003  # one subnormal for certain
            blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(-1, 2)
        if kind == Type.MXFP4:
            blocks[:, 0] %= 253  # from there on a value may be infinite
            blocks[:3, 0] = 0, 1, 252
        name = kind.name.lower()
        (folder / f"{name}.blocks").write_bytes(blocks.tobytes())
        (folder / f"{name}.f32").write_bytes(quants.dequantize(blocks.reshape(-1), kind).astype("<f4").tobytes())

    values = random.standard_normal(ELEMENTS).astype(np.float32)
    values[:32] = 0
    values[32:64] = 0.25  # max = min
    values[64:96] = np.arange(-16, 16) * 0.5  # many ties
    values[96] = 300.0
    (folder / "values.f32").write_bytes(values.astype("<f4").tobytes())
    chunk = ggml_quantize_chunk()
    floats = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    for kind in SCALES:
        block, size = GGML_QUANT_SIZES[kind]
        out = ctypes.create_string_buffer(ELEMENTS // block * size)
        assert chunk(int(kind), floats, out, 0, 1, ELEMENTS, None) == len(out)
        (folder / f"values.{kind.name.lower()}").write_bytes(out.raw)


if __name__ == "__main__":
    (nf4 if "--nf4" in sys.argv else main)(pathlib.Path(sys.argv[1]))
