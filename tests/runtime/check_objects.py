#!/usr/bin/env python3
"""check_objects.py NM SET=OBJECT...: the object file of a CPU instruction set defines no name but its table's that another
object file could be given (an illegal instruction on another CPU, or speed by link order), and runs nothing by itself
when a program starts."""
import re
import subprocess
import sys

bad = []
nm, *objects = sys.argv[1:]
for name, path in (o.split("=", 1) for o in objects):
    lines = subprocess.run([nm, "--demangle", path], check=True, capture_output=True, text=True).stdout.splitlines()
    symbols = [(found.group(1), found.group(2)) for line in lines if (found := re.match(r"[0-9a-f ]{16} (\S) (.*)", line))]
    table = [symbol for _, symbol in symbols if re.fullmatch(rf"ft::\w+::detail::cpu_kernels_{name}", symbol)]
    if len(table) != 1:
        bad.append(f"{path}: has no table cpu_kernels_{name}")
    for kind, symbol in symbols:
        # Capitals are global; of the small ones u, v, w are unique or weak. U, w and v may be undefined: no address.
        if kind in "Uwv" or kind not in "ABCDGRSTVWu" or symbol in table:
            continue
        bad.append(f"{path}: defines {symbol} ({kind}) for other object files too")
    sanitized = any(re.match(r"__(asan|tsan|ubsan)_", symbol) for _, symbol in symbols)
    if not sanitized and any(symbol.startswith("_GLOBAL__sub_I") for _, symbol in symbols):
        bad.append(f"{path}: runs code when the program starts, whatever the CPU: _GLOBAL__sub_I")
print("\n".join(bad) if bad else f"check_objects: {len(objects)} object files keep their names to themselves")
sys.exit(1 if bad else 0)
