#!/usr/bin/env python3
"""Fails where a document names, in backticks or a link, a path of this repository that does not exist, or an option that
the example program before it does not have, or that in backticks alone nothing here has."""
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
options = {program: {"--help", "--version"} for program in ("qa", "image_style")}
for program, known in options.items():
    for source in (root / "examples").glob("*/*.?pp"):
        if source.parent.name in (program, "common"):
            known |= set(re.findall(r'"(--[a-z-]+)', source.read_text()))
# Options of whatever is run from here, and of other people's programs.
known_anywhere = set("--help --version --build --benchmark --expt-relaxed-constexpr --bind-to --map-by --host --mpi --mca --lora --target --test-dir --showme --allow-run-as-root --no-python --nproc-per-node".split())
for source in [*root.glob("examples/**/*.?pp"), *root.glob("tools/**/*"), *root.glob("tests/**/*.py"), *root.glob("benchmarks/**/*.?pp"), *root.glob("*.sh")]:
    if source.is_file() and source.suffix in (".hpp", ".cpp", ".py", ".sh", ""):
        text = source.read_text(encoding="utf-8", errors="replace")
        known_anywhere |= set(re.findall(r"add_(?:option|flag|argument)\w*\(\s*[\"'](--[a-z-]+)", text))
        known_anywhere |= set(re.findall(r"sys\.argv\S* [!=]= \[?[\"'](--[a-z-]+)", text))
        known_anywhere |= set(re.findall(r"^\s*(--[a-z-]+)\)", text, re.M))  # a case of bash
tops = {p.name for p in root.iterdir()} - {"build"}
bad = []
for document in [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("examples/**/*.md")]:
    text = document.read_text(encoding="utf-8")
    name = document.relative_to(root)
    for path in re.findall(r"`([\w.*/-]+)`", text) + re.findall(r"\]\(([\w./-]+)\)", text) + re.findall(r"\bdocs/\w+\.md", text):
        is_path = path.split("/")[0] in tops and (path.endswith("/") or "." in path.rsplit("/", 1)[-1])
        if is_path and "/" in path and "*" not in path and not (root / path).exists() and not (document.parent / path).exists():
            bad.append(f"{name}: {path} does not exist")
    for shown in re.findall(r"`([^`\n]*)`", text):
        bad += [f"{name}: nothing here has the option {o}" for o in re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown) if o not in known_anywhere]
    for program, line in re.findall(r"^ {4}(?:build/examples/\w+/)?(qa|image_style) (.*(?:\\\n.*)*)", text, re.M):
        bad += [f"{name}: {program} has no option {o}" for o in re.findall(r"(?<=\s)--[a-z-]+", line)
                if o not in options[program]]
# The same of scripts that run qa or image_style and have no test.
foreign = set("""--write --quiet --no-deps --dest --no-cache-dir --require-hashes --query-gpu --kill-after --output-on-failure --error-exitcode --timeout --format
    --short --split-compile --tool --detach""".split())
for script in [root / "quickstart.sh", *root.glob("tools/**/*")]:
    if not script.is_file() or not re.search(r"\b(qa|image_style)\b", text := script.read_text(encoding="utf-8", errors="replace")):
        continue
    bad += [f"{script.relative_to(root)}: nothing here has the option {o}"
            for o in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+(?![\w*-])", text)) - known_anywhere - foreign]
print("\n".join(bad) if bad else "documents: paths and options exist")
sys.exit(1 if bad else 0)
