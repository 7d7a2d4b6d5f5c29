#!/usr/bin/env python3
"""Writes tests/data/ops/rope.json: rows of transformers' rotary tables. Needs torch and transformers.

Run: python tools/ops_fixtures.py
"""
import json
import pathlib

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
CASES = [
    {"name": "SmolLM2", "theta": 1e5, "head_size": 64},
    {"name": "Gemma 3 local", "theta": 1e4, "head_size": 256},
    {"name": "Gemma 3 global", "theta": 1e6, "head_size": 256},
    {"name": "Llama 3.1", "theta": 5e5, "head_size": 128, "llama3": LLAMA3},
    {"name": "Llama 3.2", "theta": 5e5, "head_size": 64, "llama3": {**LLAMA3, "factor": 32.0}},
    {"name": "linear", "theta": 1e4, "head_size": 64, "factor": 4.0},
]
POSITIONS = [1, 777, 8191]

out = []
for case in CASES:
    config = LlamaConfig(hidden_size=case["head_size"], num_attention_heads=1, head_dim=case["head_size"],
                         max_position_embeddings=131072)
    scaling = {"rope_type": "default"}
    if "llama3" in case:
        scaling = {"rope_type": "llama3", **case["llama3"]}
    if "factor" in case:
        scaling = {"rope_type": "linear", "factor": case["factor"]}
    scaling["rope_theta"] = case["theta"]
    config.rope_parameters = scaling
    config.rope_theta = case["theta"]
    config.rope_scaling = scaling
    rope = LlamaRotaryEmbedding(config)
    cos, sin = rope(torch.zeros(1), torch.tensor([POSITIONS]))
    half = case["head_size"] // 2
    rows = [{"position": p, "cos": [round(v, 8) for v in cos[0, i, :half].tolist()],
             "sin": [round(v, 8) for v in sin[0, i, :half].tolist()]} for i, p in enumerate(POSITIONS)]
    out.append({**case, "rows": rows})

path = pathlib.Path(__file__).resolve().parent.parent / "tests/data/ops/rope.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")
