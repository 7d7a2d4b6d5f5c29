#!/usr/bin/env python3
"""The program in README.md and README.ko.md is tests/packaging/thirty_lines.cpp, letter by letter."""
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
program = (root / "tests/packaging/thirty_lines.cpp").read_text()
bad = [name for name in ("README.md", "README.ko.md") if f"```cpp\n{program}```" not in (root / name).read_text()]
print("\n".join(f"{name}: its ```cpp block is not tests/packaging/thirty_lines.cpp" for name in bad) or "readme: program is the one that is compiled")
sys.exit(1 if bad else 0)
