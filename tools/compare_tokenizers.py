#!/usr/bin/env python3
"""Encode the same text with ftlib and with the references, one core each, and print the ratio of speeds.

    tools/compare_tokenizers.py --models FOLDER --bench build/benchmarks/bench_tokenizer [--only NAME...] [TEXT...]

FOLDER holds SmolLM2-135M-Instruct.Q4_1.gguf, gemma-3-270m-Q4_K_M.gguf and what tools/fetch_vocabulary.py fetches; what is not there
is left out and said. Needs tokenizers, transformers, gguf, sentencepiece and tiktoken. The unigram models, of which no real one is
fetched, have 8,000 pieces that SentencePiece learns from the text. Each TEXT (default: the bundled question-answer data, English and
Korean) is encoded as one string, and line by line. The time is the best of several rounds.
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

from make_tokenizer_fixtures import GPT4O, LLAMA3, TEKKEN, gguf_fields, qwen2_real, smollm2  # noqa: E402
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: E402

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


def ranks_of(path):
    import base64

    if path.suffix == ".json":  # tekken
        config = json.loads(path.read_text())
        count = config["config"]["default_vocab_size"] - config["config"]["default_num_special_tokens"]
        return {base64.b64decode(t["token_bytes"]): t["rank"] for t in config["vocab"][:count]}
    return {base64.b64decode(t): int(r) for t, r in (line.split() for line in path.read_bytes().splitlines() if line)}


def from_ranks(path, pattern):
    """As transformers converts ranks, and tiktoken's own."""
    import tiktoken
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ranks, alphabet = ranks_of(path), bytes_to_unicode()
    spell = {token: "".join(alphabet[b] for b in token) for token in ranks}
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += [(spell[a], spell[b]) for a, b in sorted(cuts, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))]
    made = Tokenizer(models.BPE({spell[t]: r for t, r in ranks.items()}, merges, ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    own = tiktoken.Encoding(path.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return {"tokenizers": made.encode, "tiktoken": own.encode_ordinary}


def from_sentencepiece(path):
    """As transformers converts SentencePiece models, and SentencePiece's own."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    from transformers.convert_slow_tokenizer import generate_merges

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    pieces = [(p.piece, p.score) for p in proto.pieces]
    if proto.trainer_spec.model_type == 1:
        made = Tokenizer(models.Unigram(pieces, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback))
        made.normalizer = normalizers.Sequence([normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
                                                normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")])
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
        made.decoder = decoders.Metaspace()
    else:
        vocab, scores = {p: i for i, (p, _) in enumerate(pieces)}, dict(pieces)
        made = Tokenizer(models.BPE(vocab, generate_merges(vocab, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made, {"tokenizers": made.encode, "sentencepiece": sentencepiece.SentencePieceProcessor(model_file=str(path)).EncodeAsIds}


def train_unigram(folder, text):
    """unigram.model, and what transformers would make of it as unigram.json."""
    import sentencepiece

    (folder / "text").write_text(text, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.Train(input=str(folder / "text"), model_prefix=str(folder / "unigram"), model_type="unigram",
                                             vocab_size=8000, hard_vocab_limit=False, character_coverage=1.0, minloglevel=2)
    made, peers = from_sentencepiece(folder / "unigram.model")
    made.save(str(folder / "unigram.json"))
    return {"unigram.model": peers, "unigram.json": {"tokenizers": made.encode}}


FILES = {  # the file: its name, and what else encodes by it
    "SmolLM2-135M-Instruct.Q4_1.gguf": ("SmolLM2", lambda path: {"tokenizers": smollm2(gguf_fields(path)).encode}),
    "gemma-3-270m-Q4_K_M.gguf": ("Gemma 3", lambda path: {"tokenizers": gemma(gguf_fields(path)).encode}),
    "qwen2-vocabulary.gguf": ("Qwen2", lambda path: {"tokenizers": qwen2_real(gguf_fields(path)).encode}),
    "llama3.tokenizer.model": ("Llama 3", lambda path: from_ranks(path, LLAMA3)),
    "llama4.tokenizer.model": ("Llama 4", lambda path: from_ranks(path, GPT4O)),
    "tekken_240911.json": ("tekken", lambda path: from_ranks(path, TEKKEN)),
    "mistral-v3.model": ("Mistral v3", lambda path: from_sentencepiece(path)[1]),
}


def best(run, rounds=7):
    times = []
    for _ in range(rounds):
        start = time.process_time()  # others may use the machine too, as of the benchmark's CPU time
        run()
        times.append(time.process_time() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--bench", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("texts", type=pathlib.Path, nargs="*")
    args = parser.parse_args()
    if args.texts:
        texts = {path.name: path.read_text(encoding="utf-8") for path in args.texts}
    else:
        data = ROOT / "examples/qa/data"
        texts = {lang: "".join(p.read_text(encoding="utf-8") for p in sorted(data.glob(f"*.{lang}.*"))) for lang in ("en", "ko")}
    peers = {}
    for file, (name, make) in FILES.items():
        if args.only and name not in args.only:
            continue
        if (args.models / file).exists():
            peers[file] = make(args.models / file)
        else:
            print(f"{file} is not in {args.models}: left out")

    print("| text | model | form | ftlib MB/s | peer | its MB/s | ratio |\n|---|---|---|---|---|---|---|")
    for title, text in texts.items():
        size = len(text.encode())
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            for file in peers:
                (folder / file).symlink_to((args.models / file).resolve())
            names = {file: FILES[file][0] for file in peers}
            these = dict(peers)
            if not args.only or "unigram" in args.only:
                these |= train_unigram(folder, text)
                names |= {"unigram.model": "unigram, SentencePiece", "unigram.json": "unigram, tokenizer.json"}
            (folder / "encoded").write_text(text, encoding="utf-8", newline="")
            report = subprocess.run(
                [args.bench, "--benchmark_format=json", "--benchmark_filter=long|lines", "--benchmark_repetitions=5",
                 "--benchmark_min_time=0.2"], check=True, capture_output=True,
                env={**os.environ, "FTLIB_MODELS": scratch, "FTLIB_TEXT": str(folder / "encoded")}).stdout
        runs = [r for r in json.loads(report)["benchmarks"] if r["run_type"] == "iteration"]
        for file, encoders in these.items():
            for form, items in (("long", [text]), ("lines", text.split("\n"))):
                ours = max(r["bytes_per_second"] for r in runs if r["name"].startswith(f"{file}/{form}"))
                for peer, encode in encoders.items():
                    theirs = size / best(lambda: [encode(t) for t in items])
                    print(f"| {title} | {names[file]} | {form} | {ours / 1e6:.1f} | {peer} | {theirs / 1e6:.1f} | {ours / theirs:.1f} |",
                          flush=True)


if __name__ == "__main__":
    main()
