#!/usr/bin/env python3
"""What ftlib exports, in llama.cpp: opens, logits, greedy answers, template, end tokens, mixtures, LoRA.

    check_export.py QA [--page]               every tiny model of tests/data/models; --page: the table into docs/export.md
    check_export.py QA MODEL [ADAPTER]        a real model, a GGUF file or a Hugging Face folder (and a PEFT folder)

QA is the program (build/examples/qa/qa). llama.cpp is that of llama-cpp-python (pip install llama-cpp-python; or its
sources in PYTHONPATH and LLAMA_CPP_LIB_PATH=FOLDER with libllama.so), with keys and values in float32.

Tiny models: logits of the float32 file are transformers' (expected.safetensors) within 1e-4 (what llama.cpp computes otherwise:
within()), greedy tokens its own, template and end token the folder's, logits with the LoRA those of the merged file; f16, q8_0, q4_0,
q4_k_m, q4_k_s, q5_k_m and q6_k have the tensor types that llama_model_quantize chooses for the float32 file, the same keys, and an error
against float32 of at most 1.02 of its; logits of f16, q8_0 and q4_k_m are off by no more than twice what those of its file are. Prints a
line for each model; the exit status is 1 where one is not as it should be."""
import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
try:
    import gguf
    import llama_cpp
    import numpy as np
except ImportError as error:
    sys.exit(f"check_export.py: {error}\n  hint: pip install llama-cpp-python gguf (see the first lines of this file)")

BEGIN, END = "<!-- tools/check_export.py QA --page -->\n", "<!-- end -->\n"
ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests/data/models"
MIXTURES = {"f16": 1, "q8_0": 7, "q4_0": 2, "q4_k_m": 15, "q4_k_s": 14, "q5_k_m": 17, "q6_k": 18}
# What GGUF cannot say of some fixtures, and the change of config.json without which the rest is exported.
WITHOUT = {"gemma3_tiny": {"query_pre_attn_scalar": 12}, "smollm3_tiny": None, "qwen3_moe_tiny": None}
WINDOWS = {"mistral_tiny": 8, "qwen2_tiny": 8, "phi3_tiny": 12}  # llama.cpp reads longer texts in full
NOT_OPENED = {"qwen3_5_heads": "linear_value_head_dim"}  # llama.cpp's values are of the keys' size; what qa says of it
PASSED_OVER = {"gemma4_tiny": "per_layer_model_proj"}  # weights whose LoRA llama.cpp leaves out (ggml_mul_mat, not build_lora_mm)
UNPACKED = "qwen35_heads_q4_1.gguf"  # ours has ssm_out as float32, by which llama.cpp multiplies without rounding activations
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
ROUNDED = ("f16", "q8_0", "q4_k_m")  # whose logits are looked at
NAMED = ("--name", "x")  # of a model called phi3 llama.cpp wants tokens that the tiny vocabularies have not
LONG = 16  # phi3's fixtures: texts up to that length have longrope's short factors, of which llama.cpp decides by its context
failed, rows = [], []


def check(name, what, good, detail=""):
    if not good:
        failed.append(name)
        print(f"  {name}: NOT {what} {detail}")
    return good


def within(name):
    """How far llama.cpp's logits may be. It looks GELU up in a table of halves, which Gemma 4 does twice a layer; and of a gated delta
    net's q and k it adds the norms' epsilon to the squares, where transformers has 1e-6 (the fixtures' is 1e-3, released models' 1e-6)."""
    if name.startswith("gemma4"):
        return 2e-2
    return 5e-3 if name.startswith(("gpt2", "gemma")) else 3e-3 if name.startswith(("qwen35", "qwen3_5")) else 1e-4


def off(logits, wanted):
    """The root of the squared difference over that of what is wanted."""
    return float(np.sqrt(np.sum((logits - wanted) ** 2) / np.sum(wanted ** 2)))


def run(qa, *args, fails=False):
    done = subprocess.run([qa, *map(str, args)], capture_output=True, text=True)
    if (done.returncode != 0) != fails:
        sys.exit(f"{' '.join(map(str, args))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def read_tensor(path, name):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        begin, end = header[name]["data_offsets"]
        file.seek(8 + size + begin)
        return np.frombuffer(file.read(end - begin), dtype=np.float32).reshape(header[name]["shape"])


def tiny_tokenizer():
    """A byte a token, as tests/tiny_text_model.hpp."""
    vocab = {"<|endoftext|>": 0, **{chr(c): c - 32 for c in range(33, 127)}}
    vocab["\u0120"] = len(vocab)
    return {"version": "1.0", "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": True}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}}


class Opened:
    """A file in llama.cpp."""
    def __init__(self, path, lora=None, n_ctx=256):
        self.llama = llama_cpp.Llama(str(path), n_ctx=n_ctx, logits_all=True, verbose=False, n_threads=1, n_batch=512,
                                     type_k=0, type_v=0, lora_path=str(lora) if lora else None)

    def logits(self, tokens):
        self.llama.reset()
        self.llama.eval(tokens)
        return np.array(self.llama.scores[:len(tokens)])

    def greedy(self, prompt, count):
        tokens = list(prompt)
        self.llama.reset()
        self.llama.eval(tokens)
        for _ in range(count):
            tokens.append(int(np.argmax(self.llama.scores[len(tokens) - 1])))
            self.llama.eval(tokens[-1:])
        return tokens[len(prompt):]


@llama_cpp.llama_log_callback
def silent(level, text, user):
    """llama.cpp warns of each row that is no whole number of blocks."""


def quantise(source, target, number):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = number, 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"llama_model_quantize failed on {source}")


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64).reshape(-1)


def compare_mixture(name, mixture, ours, theirs, dense):
    """Types and keys as llama_model_quantize's; the error of each quantised tensor at most 1.02 of its."""
    a, b = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    kinds = {t.name: t.tensor_type.name for t in a.tensors}
    for tensor in b.tensors:
        check(name, f"{mixture}: the type of {tensor.name}", kinds.get(tensor.name) == tensor.tensor_type.name,
              f"{kinds.get(tensor.name)}, llama.cpp has {tensor.tensor_type.name}")
    for key, field in b.fields.items():
        if mixture == "f16" and key == "general.quantization_version":
            continue  # llama.cpp writes it of what is not quantised, too
        if key.startswith("GGUF.") or key not in a.fields:
            check(name, f"{mixture}: key {key} is there", key.startswith("GGUF."))
        else:
            check(name, f"{mixture}: key {key}", a.fields[key].contents() == field.contents())
    worst = 0.0
    original = {t.name: values(t) for t in gguf.GGUFReader(dense).tensors}
    other = {t.name: t for t in b.tensors}
    for tensor in a.tensors:
        if tensor.tensor_type.name in ("F32", "F16", "BF16"):
            continue
        mine = float(np.sum((values(tensor) - original[tensor.name]) ** 2))
        its = float(np.sum((values(other[tensor.name]) - original[tensor.name]) ** 2))
        worst = max(worst, (mine / its) ** 0.5 if its else float(mine > 0))
    check(name, f"{mixture}: error within 1.02 of llama.cpp's", worst <= 1.02, f"{worst:.4f}")
    return worst


def mixtures(qa, name, model, dense, tokens, wanted, scratch):
    """Exports `model` in each, beside what llama_model_quantize makes of `dense`. -> weights' errors, logits' (ours, its)"""
    errors, logits = {}, {}
    for mixture, number in MIXTURES.items():
        ours, theirs = scratch / f"{name}.{mixture}.gguf", scratch / f"{name}.{mixture}.llama.gguf"
        run(qa, "export", "--model", model, "--to", "gguf", "--type", mixture, "--out", ours, *NAMED)
        quantise(dense, theirs, number)
        errors[mixture] = compare_mixture(name, mixture, ours, theirs, dense)
        if mixture in ROUNDED and wanted is not None:
            mine, its = (off(Opened(file).logits(tokens), wanted) for file in (ours, theirs))
            logits[mixture] = mine, its
            check(name, f"{mixture}: logits as near as llama.cpp's own file", mine <= 2 * its + 1e-4, f"{mine:.1e}, its {its:.1e}")
    return errors, logits


def row(name, most, greedy, lora, logits):
    cells = [f"{most:.0e}" if most is not None else "", greedy, lora]
    cells += [f"{logits[m][0]:.0e}, {logits[m][1]:.0e}" if m in logits else "" for m in ROUNDED]
    rows.append(f"| {name} | " + " | ".join(cells) + " |\n")


def tiny(qa, folder, scratch):
    name = folder.name
    model = scratch / name
    model.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (model / file.name).write_bytes(file.read_bytes())
    (model / "tokenizer.json").write_text(json.dumps(tiny_tokenizer()))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "chat_template": TEMPLATE}))
    expected = json.loads((folder / "expected.json").read_text())
    if name in WITHOUT:
        said = run(qa, "export", "--model", model, "--to", "gguf", "--out", scratch / "x.gguf", fails=True)
        check(name, "refused by what GGUF cannot say", "cannot say" in said or "GGUF cannot" in said, said)
        print(f"{name}: refused: {said.strip().splitlines()[-1][:150]}")
        return
    out = scratch / f"{name}.f32.gguf"
    said = run(qa, "export", "--model", model, "--to", "gguf", "--type", "f32", "--out", out, *NAMED)
    if name in NOT_OPENED:
        check(name, "said to be none that llama.cpp opens", "llama.cpp opens no such file" in said and NOT_OPENED[name] in said, said)
        print(f"{name}: llama.cpp opens no such file, which qa says")
        rows.append(f"| {name} | not opened: `{NOT_OPENED[name]}` | | | | | |\n")
        return
    opened = Opened(out)
    keys = opened.llama.metadata
    check(name, "the folder's template and end token", keys.get("tokenizer.chat_template") == TEMPLATE and opened.llama.token_eos() == 0,
          keys)
    most, last = 0.0, (None, None)
    for i, sequence in enumerate(expected["sequences"]):
        tokens = sequence["tokens"][:WINDOWS.get(name, 1 << 20)]
        if name.startswith("phi3") and len(tokens) <= LONG:
            continue
        wanted = read_tensor(folder / "expected.safetensors", f"logits.{i}")[:len(tokens)]
        most, last = max(most, float(np.abs(opened.logits(tokens) - wanted).max())), (tokens, wanted)
    check(name, "transformers' logits", most <= within(name), f"{most:.2e}")
    answers = 0
    for case in expected["generation"]:
        count = min(20, WINDOWS.get(name, 99) - len(case["prompt"])) if not name.startswith("phi3") else 0
        if count > 0:
            answers += 1
            got = opened.greedy(case["prompt"], count)
            check(name, "transformers' greedy tokens", got == case["greedy"][:count], f"{got} {case['greedy']}")
    errors, logits_off = mixtures(qa, name, model, out, *last, scratch)
    lora = scratch / f"{name}.lora.gguf"
    adapter = folder / "adapter_trained"
    said = run(qa, "export", "--model", model, "--adapter", adapter, "--to", "gguf-lora", "--out", lora, *NAMED)
    merged = scratch / f"{name}.merged.gguf"
    run(qa, "export", "--model", model, "--adapter", adapter, "--to", "gguf", "--type", "f32", "--out", merged, *NAMED)
    tokens = expected["sequences"][-1]["tokens"][:WINDOWS.get(name, 1 << 20)]
    base, over = opened.logits(tokens), Opened(out, lora).logits(tokens)
    whole = Opened(merged).logits(tokens)
    check(name, "changed by its adapter", float(np.abs(base - whole).max()) > 1e-3)
    if name in PASSED_OVER:
        check(name, "said to pass over a pair", f"the pair of {PASSED_OVER[name]}" in said, said)
        beside = f"passes over `{PASSED_OVER[name]}`, which qa says"
    else:
        check(name, "LoRA over the base as merged", float(np.abs(over - whole).max()) <= 2e-3, float(np.abs(over - whole).max()))
        beside = f"{np.abs(over - whole).max():.0e}"
    row(name, most or None, f"{answers} of {answers}" if answers else "", beside, logits_off)
    logits = f"logits within {most:.1e} of transformers'" if most else "no text that suits its window and longrope at once"
    print(f"{name}: {logits}, {answers} greedy answers equal; LoRA within "
          f"{np.abs(over - whole).max():.1e} of merged; error beside llama.cpp's at most: "
          + ", ".join(f"{m} {e:.3f}" if e else f"{m} -" for m, e in errors.items()))  # -: no row is a whole number of blocks


def tiny_gguf(qa, file, scratch):
    name = file.name
    expected = json.loads(file.with_suffix(".expected.json").read_text())["sequences"]
    out, dense = scratch / f"{name}.stored.gguf", scratch / f"{name}.f32.gguf"
    run(qa, "export", "--model", file, "--to", "gguf", "--out", out, "--name", "x")
    run(qa, "export", "--model", file, "--to", "gguf", "--type", "f32", "--out", dense, "--name", "x")
    opened, stored = Opened(dense), Opened(out)
    most, last = 0.0, (None, None)
    for i, sequence in enumerate(expected):
        if name.startswith("phi3") and len(sequence["tokens"]) <= LONG:
            continue
        wanted = read_tensor(file.with_suffix(".expected.safetensors"), f"logits.{i}")
        most, last = max(most, float(np.abs(opened.logits(sequence["tokens"]) - wanted).max())), (sequence["tokens"], wanted)
    check(name, "transformers' logits", most <= within(name), f"{most:.2e}")
    if not name.startswith("phi3") and name != UNPACKED:  # of that name llama.cpp wants tokens that the tiny vocabulary has not
        original = Opened(file)
        for s in expected:
            apart = float(np.abs(stored.logits(s["tokens"]) - original.logits(s["tokens"])).max())
            check(name, "as the file that it came from", apart == 0, f"{apart:.2e}")
    errors, logits_off = mixtures(qa, name, dense, dense, *last, scratch)
    row(name, most, "", "", logits_off)
    print(f"{name}: logits within {most:.1e} of transformers', stored as the file itself; error beside llama.cpp's at most: "
          + ", ".join(f"{m} {e:.3f}" if e else f"{m} -" for m, e in errors.items()))  # -: no row is a whole number of blocks


def real(qa, model, adapter, scratch):
    question = "Which city is the capital of France?"
    for mixture in ("stored", "q8_0", "q4_k_m"):
        out = scratch / f"{model.stem}.{mixture}.gguf"
        said = run(qa, "export", "--model", model, "--to", "gguf", "--type", mixture, "--out", out,
                   *(["--adapter", adapter] if adapter else []))
        print(said.strip())
        ours = run(qa, "ask", "--model", out, "--max-new-tokens", "24", question).strip().splitlines()[-1]
        llama = llama_cpp.Llama(str(out), n_ctx=512, verbose=False, n_threads=2, type_k=0, type_v=0)
        prompt = f"Q: {question}\nA:"
        text = llama.create_completion(prompt, max_tokens=24, temperature=0, stop=["\n"])["choices"][0]["text"].strip()
        check(model.name, f"{mixture}: the same greedy answer", text == ours, f"{text!r}, ours {ours!r}")
        ends = llama.token_eos(), llama.metadata.get("tokenizer.ggml.eos_token_id")
        check(model.name, "the end token", str(ends[0]) == ends[1], ends)
        source = gguf.GGUFReader(model) if model.suffix == ".gguf" else None
        if source and "tokenizer.chat_template" in source.fields:
            check(model.name, "the chat template",
                  source.fields["tokenizer.chat_template"].contents() == llama.metadata.get("tokenizer.chat_template"))
        print(f"{model.name} {mixture}: {text!r}")
    if model.suffix == ".gguf":  # through a folder of transformers' kind, and back
        folder, back = scratch / "folder", scratch / "back.gguf"
        run(qa, "export", "--model", model, "--to", "hf", "--out", folder)
        run(qa, "export", "--model", folder, "--to", "gguf", "--type", "f16", "--out", back)
        here, there = (llama_cpp.Llama(str(p), vocab_only=True, verbose=False) for p in (model, back))
        texts = [t for t in json.loads((ROOT / "tests/data/tokenizer/strings.json").read_text()) if isinstance(t, str)]
        differ = [t for t in texts if here.tokenize(t.encode(), special=True) != there.tokenize(t.encode(), special=True)]
        check(model.name, "the same tokens through a folder and back", not differ, differ[:3])
        for key in ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.pre"):
            check(model.name, f"{key} through a folder and back", here.metadata.get(key) == there.metadata.get(key))
        print(f"{model.name}: through a folder and back llama.cpp has the same tokens of {len(texts)} strings")
    if adapter:
        base, lora = scratch / "base.gguf", scratch / "lora.gguf"
        run(qa, "export", "--model", model, "--to", "gguf", "--type", "f32", "--out", base)
        run(qa, "export", "--model", model, "--adapter", adapter, "--to", "gguf-lora", "--out", lora)
        merged = scratch / "merged.gguf"
        run(qa, "export", "--model", model, "--adapter", adapter, "--to", "gguf", "--type", "f32", "--out", merged)
        tokens = llama_cpp.Llama(str(base), vocab_only=True, verbose=False).tokenize(question.encode())
        a, b = Opened(base, lora).logits(tokens), Opened(merged).logits(tokens)
        check(model.name, "LoRA over the base as merged", float(np.abs(a - b).max()) <= 0.05, float(np.abs(a - b).max()))
        print(f"{model.name}: LoRA over the base within {np.abs(a - b).max():.1e} of merged")


def main():
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qa", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("adapter", type=Path, nargs="?")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if not options.qa.is_file():
        sys.exit(__doc__)
    qa = str(options.qa.resolve())
    with tempfile.TemporaryDirectory(prefix="ftlib-export-") as folder:
        scratch = Path(folder)
        if options.model:
            real(qa, options.model, options.adapter, scratch)
        else:
            for model in sorted(MODELS.iterdir()):
                if model.is_dir():
                    tiny(qa, model, scratch)
                elif model.suffix == ".gguf":
                    tiny_gguf(qa, model, scratch)
    if options.page and not failed:
        page = ROOT / "docs/export.md"
        before, rest = page.read_text().split(BEGIN)
        head = ["model", "float32: logits beside transformers'", "greedy answers equal", "LoRA beside merged",
                *(f"{m}: ours, llama.cpp's" for m in ROUNDED)]
        table = "| " + " | ".join(head) + " |\n|" + " --- |" * len(head) + "\n" + "".join(rows)
        page.write_text(before + BEGIN + table + END + rest.split(END, 1)[1])
    print(f"{len(set(failed))} models not as they should be: {', '.join(sorted(set(failed)))}" if failed else "all as it should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
