#!/usr/bin/env python3
"""Fetch published chat templates from PyPI: those that llama.cpp keeps as tests, out of llama-cpp-python's source.

    tools/fetch_chat_templates.py FOLDER      writes FOLDER/*.jinja (70 files, 0.3 MB) of a download of 77 MB

build/models/chat_templates is where tests/text/chat.cpp looks for them. The models' licences hold for them (Llama's, Gemma's
and others), so none is committed.
"""
import hashlib
import pathlib
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "llama-cpp-python==0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = "/vendor/llama.cpp/models/templates/"


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    if list(folder.glob("*.jinja")):
        return print(f"{folder}: templates are there")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python",
                        "--dest", scratch, PACKAGE], check=True)
        source = next(pathlib.Path(scratch).glob("*.tar.gz"))
        found = hashlib.sha256(source.read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"{source.name}: its SHA-256 is {found}, not {SHA256}\n  hint: the package is not the one that was looked at.")
        count = 0
        with tarfile.open(source) as archive:
            for member in archive:
                if INSIDE in member.name and member.name.endswith(".jinja"):
                    (folder / pathlib.PurePosixPath(member.name).name).write_bytes(archive.extractfile(member).read())
                    count += 1
    print(f"{folder}: {count} templates")


if __name__ == "__main__":
    main()
