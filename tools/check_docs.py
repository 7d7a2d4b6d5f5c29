#!/usr/bin/env python3
"""Fails where a document names, in backticks or a link, a path of this repository that does not exist, or an option that
the example program before it does not have."""
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
options = {program: {"--help", "--version"} for program in ("qa", "image_style")}
for program, known in options.items():
    for source in (root / "examples").glob("*/*.?pp"):
        if source.parent.name in (program, "common"):
            known |= set(re.findall(r'"(--[a-z-]+)', source.read_text()))
tops = {p.name for p in root.iterdir()} - {"build"}
bad = []
for document in [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("examples/**/*.md")]:
    text = document.read_text(encoding="utf-8")
    name = document.relative_to(root)
    for path in re.findall(r"`([\w.*/-]+)`", text) + re.findall(r"\]\(([\w./-]+)\)", text) + re.findall(r"\bdocs/\w+\.md", text):
        is_path = path.split("/")[0] in tops and (path.endswith("/") or "." in path.rsplit("/", 1)[-1])
        if is_path and "/" in path and "*" not in path and not (root / path).exists() and not (document.parent / path).exists():
            bad.append(f"{name}: {path} does not exist")
    for program, line in re.findall(r"^ {4}(?:build/examples/\w+/)?(qa|image_style) (.*(?:\\\n.*)*)", text, re.M):
        bad += [f"{name}: {program} has no option {o}" for o in re.findall(r"(?<=\s)--[a-z-]+", line)
                if o not in options[program]]
print("\n".join(bad) if bad else "documents: paths and options exist")
sys.exit(1 if bad else 0)
