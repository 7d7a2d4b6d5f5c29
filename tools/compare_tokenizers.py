#!/usr/bin/env python3
"""Encode the same text with ftlib and with Hugging Face's tokenizers, one core each, and print the ratio of speeds.

    tools/compare_tokenizers.py --models FOLDER --bench build/benchmarks/bench_tokenizer [TEXT...]

FOLDER holds SmolLM2-135M-Instruct.Q4_1.gguf and gemma-3-270m-Q4_K_M.gguf; needs tokenizers, transformers and gguf. Each TEXT
(default: the bundled question-answer data, English and Korean) is encoded as one string, and line by line. The time is
the best of several rounds.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from make_tokenizer_fixtures import gguf_fields, smollm2  # noqa: E402
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent


def gemma(fields):
    """As transformers converts Gemma's SentencePiece model."""
    from transformers.convert_slow_tokenizer import generate_merges

    kinds = fields["token_type"]
    tokens = [t.replace(" ", "▁") if kind == 4 else t for t, kind in zip(fields["tokens"], kinds)]
    vocab = {t: i for i, t in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, generate_merges(vocab, None), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, kinds) if kind == 3])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds) if kind == 4])
    return tokenizer


def best(run, rounds=7):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--bench", type=pathlib.Path, required=True)
    parser.add_argument("texts", type=pathlib.Path, nargs="*")
    args = parser.parse_args()
    files = {"SmolLM2": "SmolLM2-135M-Instruct.Q4_1.gguf", "Gemma 3": "gemma-3-270m-Q4_K_M.gguf"}
    peers = {"SmolLM2": smollm2(gguf_fields(args.models / files["SmolLM2"])),
             "Gemma 3": gemma(gguf_fields(args.models / files["Gemma 3"]))}
    if args.texts:
        texts = {path.name: path.read_text(encoding="utf-8") for path in args.texts}
    else:
        data = ROOT / "examples/qa/data"
        texts = {lang: "".join(p.read_text(encoding="utf-8") for p in sorted(data.glob(f"*.{lang}.*"))) for lang in ("en", "ko")}

    print("| text | model | form | ftlib MB/s | tokenizers MB/s | ratio |\n|---|---|---|---|---|---|")
    for title, text in texts.items():
        size = len(text.encode())
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            report = subprocess.run(
                [args.bench, "--benchmark_format=json", "--benchmark_filter=long|lines", "--benchmark_repetitions=5"], check=True,
                capture_output=True, env={**os.environ, "FTLIB_MODELS": str(args.models), "FTLIB_TEXT": file.name}).stdout
        runs = [r for r in json.loads(report)["benchmarks"] if r["run_type"] == "iteration"]
        for model, tokenizer in peers.items():
            for form, items in (("long", [text]), ("lines", text.split("\n"))):
                peer = size / best(lambda: [tokenizer.encode(t) for t in items])
                ours = max(r["bytes_per_second"] for r in runs if r["name"].startswith(f"{files[model]}/{form}"))
                print(f"| {title} | {model} | {form} | {ours / 1e6:.1f} | {peer / 1e6:.1f} | {ours / peer:.1f} |", flush=True)


if __name__ == "__main__":
    main()
