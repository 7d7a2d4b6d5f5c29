#!/usr/bin/env python3
"""Fails where a document names, in backticks or a link, a path of this repository that does not exist, or a qa option
that examples/qa does not have."""
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
options = set(re.findall(r'"(--[a-z-]+)', (root / "examples/qa/main.cpp").read_text() + (root / "examples/qa/prepare.hpp").read_text()))
options |= {"--help", "--version"}
tops = {p.name for p in root.iterdir()} - {"build"}
bad = []
for document in [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("examples/**/*.md")]:
    text = document.read_text(encoding="utf-8")
    name = document.relative_to(root)
    for path in re.findall(r"`([\w.*/-]+)`", text) + re.findall(r"\]\(([\w./-]+)\)", text) + re.findall(r"\bdocs/\w+\.md", text):
        is_path = path.split("/")[0] in tops and (path.endswith("/") or "." in path.rsplit("/", 1)[-1])
        if is_path and "/" in path and "*" not in path and not (root / path).exists() and not (document.parent / path).exists():
            bad.append(f"{name}: {path} does not exist")
    for line in re.findall(r"^ {4}(qa .*(?:\\\n.*)*)", text, re.M):
        bad += [f"{name}: qa has no option {o}" for o in re.findall(r"(?<=\s)--[a-z-]+", line) if o not in options]
print("\n".join(bad) if bad else "documents: paths and options exist")
sys.exit(1 if bad else 0)
