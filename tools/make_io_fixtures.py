#!/usr/bin/env python3
"""Makes tests/data/io: small safetensors and GGUF files by the reference writers, and what is in them as JSON.

  make_io_fixtures.py                 writes the fixtures and the fuzzers' seeds (needs torch, safetensors, gguf, numpy)
  make_io_fixtures.py check FOLDER    reads with the reference readers what test_io_safetensors and test_io_gguf left
                                      under FOLDER (run them with FTLIB_TEST_KEEP=FOLDER) and compares
"""
import json
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "io"
CORPUS = ROOT / "tests" / "fuzz" / "corpus"

BLOCK = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "Q2_K": 84}


def values(shape, dtype, seed=0):
    """Small multiples of 1/4, exact in every type: (i * 7 + seed) % 23 - 11, over 4."""
    n = int(np.prod(shape))
    x = ((torch.arange(n) * 7 + seed) % 23 - 11).to(torch.float64) / 4
    if not dtype.is_floating_point:
        x = x * 4 + (11 if dtype in (torch.uint8, torch.bool) else 0)
    return x.reshape(shape).to(dtype)


def expectation(tensors):
    return {name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape),
                   "values": t.to(torch.float64).flatten().tolist()} for name, t in tensors.items()}


def safetensors_files():
    floats = {"double": values((2, 3), torch.float64, 1), "single": values((3, 5), torch.float32, 2),
              "half": values((1, 7), torch.float16, 3), "brain": values((5, 1), torch.bfloat16, 4),
              "scalar": torch.tensor(2.5), "empty": torch.zeros((0, 3)), "rank5": values((1, 2, 1, 3, 2), torch.float32, 5),
              "\uac00\ub098/\u00e9": values((2,), torch.float32, 6)}
    save_file(floats, DATA / "floats.safetensors", {"format": "pt"})
    every = dict(floats)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
        every["int." + str(dtype).removeprefix("torch.")] = values((3,), dtype, 7)
    every["f8"] = values((4,), torch.float32).to(torch.float8_e4m3fn)
    save_file(every, DATA / "every_dtype.safetensors", {"format": "pt", "note": "caf\u00e9 \"quoted\""})
    (DATA / "safetensors.json").write_text(json.dumps(expectation(every)) + "\n")

    sharded = DATA / "sharded"
    sharded.mkdir(exist_ok=True)
    shards = [{"a.weight": values((4, 2), torch.float32, 1), "b.weight": values((3,), torch.float16, 2)},
              {"c.weight": values((2, 2, 2), torch.float32, 3)}]
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        save_file(shard, sharded / name, {"format": "pt"})
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for s in shards for t in s.values())},
             "weight_map": {tensor: name for name, shard in zip(names, shards) for tensor in shard}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def gguf_tensors():
    """name -> (array as gguf-py takes it, quantisation type or None)."""
    tensors = {}
    for seed, (dtype, name) in enumerate([(np.float32, "F32"), (np.float16, "F16"), (np.float64, "F64")]):
        tensors[name] = (values((3, 5), torch.float64, seed).numpy().astype(dtype), None)
    brain = values((2, 3), torch.bfloat16, 5).view(torch.int16).numpy().view(np.uint8)
    tensors["BF16"] = (brain, gguf.GGMLQuantizationType.BF16)
    for seed, (name, size) in enumerate(BLOCK.items()):
        raw = ((np.arange(2 * size) * 37 + seed) % 251).astype(np.uint8).reshape(2, size)  # 2 rows of one block
        tensors[name] = (raw, gguf.GGMLQuantizationType[name])
    tensors["rank4"] = (values((2, 1, 3, 4), torch.float32, 9).numpy(), None)
    tensors["I32"] = (np.arange(5, dtype=np.int32), None)
    return tensors


def gguf_file(path, tensors, alignment=None):
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    for kind, value in [("uint8", 200), ("int8", -100), ("uint16", 60000), ("int16", -30000), ("uint32", 4000000000),
                        ("int32", -2000000000), ("float32", 0.5), ("uint64", 2**63), ("int64", -(2**62)),
                        ("float64", 1e300), ("bool", True), ("string", "caf\u00e9 \ud55c\uae00")]:
        getattr(writer, "add_" + kind)("test." + kind, value)
    writer.add_array("test.array.string", ["", "a", "\u2581the", "\ud55c\uae00"])
    writer.add_array("test.array.int32", [1, -2, 3])
    writer.add_array("test.array.float32", [0.5, -1.25])
    writer.add_array("test.array.bool", [True, False, True])
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_expectation(path):
    return {t.name: {"type": t.tensor_type.name, "shape": [int(n) for n in reversed(t.shape)],
                     "bytes": t.data.tobytes().hex()} for t in gguf.GGUFReader(path).tensors}


def seeds():
    """Tiny files for the fuzzers: each a few hundred bytes, so that a mutation is likely to hit a field."""
    for target in ("safetensors", "gguf", "json_config"):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
    save_file({"a": values((2, 3), torch.float32), "b": values((3,), torch.bfloat16), "c": values((2,), torch.int64)},
              CORPUS / "safetensors" / "three_types", {"format": "pt"})
    save_file({}, CORPUS / "safetensors" / "no_tensor")
    overlap = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
    (CORPUS / "safetensors" / "overlap").write_bytes(struct.pack("<Q", len(overlap)) + overlap + bytes(12))
    overflow = b'{"a":{"dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,0]}}'
    (CORPUS / "safetensors" / "shape_overflows").write_bytes(struct.pack("<Q", len(overflow)) + overflow)
    (CORPUS / "safetensors" / "long_header").write_bytes(struct.pack("<Q", 2**63) + b"{}")

    every = gguf_tensors()
    gguf_file(CORPUS / "gguf" / "metadata", {"F32": every["F32"], "Q4_0": every["Q4_0"]})
    writer = gguf.GGUFWriter(CORPUS / "gguf" / "one_tensor", "x")
    writer.add_tensor("t", np.ones((1, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    head = lambda tensors, keys, version=3: b"GGUF" + struct.pack("<IQQ", version, tensors, keys)
    text = lambda s: struct.pack("<Q", len(s)) + s
    (CORPUS / "gguf" / "many_keys").write_bytes(head(0, 2**61))
    (CORPUS / "gguf" / "long_string").write_bytes(head(0, 1) + struct.pack("<Q", 2**64 - 1) + bytes(16))
    (CORPUS / "gguf" / "long_array").write_bytes(head(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 11, 2**61 + 1) + bytes(16))
    (CORPUS / "gguf" / "nested_array").write_bytes(head(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(16))
    (CORPUS / "gguf" / "odd_alignment").write_bytes(head(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 3) + bytes(16))
    info = text(b"t") + struct.pack("<IQQIQ", 2, 2**33, 2**33, 0, 0)  # 2^66 elements, 0 in 64 bits: CVE-2025-53630's kind
    (CORPUS / "gguf" / "size_wraps").write_bytes(head(1, 0) + info + bytes(64))
    info = text(b"t") + struct.pack("<IQIQ", 1, 32, 2, 2**64 - 32)
    (CORPUS / "gguf" / "offset_wraps").write_bytes(head(1, 0) + info + bytes(64))

    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
              "tie_word_embeddings": True, "rope_scaling": None, "layer_types": ["full_attention"], "eos_token_id": [1, 2]}
    (CORPUS / "json_config" / "config").write_text(json.dumps(config))
    (CORPUS / "json_config" / "escapes").write_text('{"a":"\\ud55c\\uae00 \\ud83d\\ude00 \\n","b":[-0.0,1E-5,12e3]}')
    (CORPUS / "json_config" / "twice").write_text('{"a":1,"a":2}')
    (CORPUS / "json_config" / "deep").write_text("[" * 300)
    (CORPUS / "json_config" / "huge_numbers").write_text('{"hidden_size":1e999,"rope_theta":99999999999999999999}')


def make():
    DATA.mkdir(parents=True, exist_ok=True)
    safetensors_files()
    gguf_file(DATA / "every_type.gguf", gguf_tensors())
    gguf_file(DATA / "aligned_64.gguf", {"F32": gguf_tensors()["F32"], "Q8_0": gguf_tensors()["Q8_0"]}, alignment=64)
    (DATA / "gguf.json").write_text(json.dumps(gguf_expectation(DATA / "every_type.gguf")) + "\n")
    seeds()


def check(folder):
    ours, theirs = load_file(folder / "floats.safetensors"), load_file(DATA / "floats.safetensors")
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]), name
    with safe_open(folder / "floats.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    index = json.loads((folder / "sharded" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == theirs.keys() and len(set(index["weight_map"].values())) > 1
    for shard in set(index["weight_map"].values()):
        for name, tensor in load_file(folder / "sharded" / shard).items():
            assert index["weight_map"][name] == shard and torch.equal(tensor, theirs[name]), name
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in theirs.values())

    written = gguf.GGUFReader(folder / "written.gguf")
    expected = json.loads((DATA / "gguf.json").read_text())
    expected = {name: t for name, t in expected.items() if name not in ("I32", "Q2_K")}
    assert gguf_expectation(folder / "written.gguf") == expected
    reference = gguf.GGUFReader(DATA / "every_type.gguf")
    for key, field in reference.fields.items():
        if not key.startswith("GGUF."):
            assert written.fields[key].contents() == field.contents() and written.fields[key].types == field.types, key
    print("safetensors and gguf-py read what ftlib wrote, and find the same")


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(Path(sys.argv[2]))
    else:
        make()
