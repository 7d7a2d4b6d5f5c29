#!/usr/bin/env python3
"""The program in README.md and README.ko.md is tests/packaging/thirty_lines.cpp, and the ```cpp blocks of the pages below are
those between "// block" and "// end" in their tests, letter by letter but for what all lines are indented by. With --write, the
pages get their blocks from there."""
import re
import sys
import textwrap
from pathlib import Path

root = Path(__file__).resolve().parent.parent
program = (root / "tests/packaging/thirty_lines.cpp").read_text()
bad = [f"{name}: its ```cpp block is not tests/packaging/thirty_lines.cpp" for name in ("README.md", "README.ko.md")
       if f"```cpp\n{program}```" not in (root / name).read_text()]

pages = {"docs/training.md": "tests/train/docs.cpp", "docs/embedding.md": "tests/text/embedding_docs.cpp",
         "docs/image_style.md": "tests/image/docs.cpp"}
for name, test in pages.items():
    page = root / name
    blocks = [textwrap.dedent(block) for block in re.findall(
        r"^ *// block\n(.*?)^ *// end\n", (root / test).read_text(), re.S | re.M)]
    shown = re.findall(r"```cpp\n(.*?)```", page.read_text(), re.S)
    if len(shown) == len(blocks) and sys.argv[1:] == ["--write"]:
        rest = iter(blocks)
        page.write_text(re.sub(r"```cpp\n.*?```", lambda _: f"```cpp\n{next(rest)}```", page.read_text(), flags=re.S))
    elif shown != blocks:
        at = next((i for i, pair in enumerate(zip(shown, blocks)) if pair[0] != pair[1]), min(len(shown), len(blocks)))
        bad.append(f"{name}: ```cpp block {at + 1} is not that of {test}; --write copies them")
print("\n".join(bad) or "documents: programs are those that are compiled")
sys.exit(1 if bad else 0)
