#!/usr/bin/env python3
"""Includes point down only. Fails, naming file and line, on an arrow that points up, on a CUDA file that includes a CPU
one, on Eigen outside *.cpu.hpp, on CUDA outside *.cuda.cuh and its gate, on a launcher that the shipped translation unit does
not compile, on functions of std::filesystem that throw their own, and on a header without #pragma once or without a line
that says what it is for."""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "include" / "ftlib"
# A floor may include itself and those before it. train/ is general and knows no text; text/ and image/ use it, and
# image/ has its captions read by text/.
FLOORS = ["core", "cuda", "tensor", "distributed", "io", "autograd", "ops", "optim", "nn", "adapters", "models", "train", "text", "image"]
# cuda/ is the plumbing of a GPU's tensors: the two folders know each other, and their files form no circle.
BESIDE = {("cuda", "tensor")}
APART = {("nn", "optim"), ("adapters", "optim"), ("models", "optim")}  # neighbours that do not know each other

ERROR_CODE = r"\b(error|ignored|failure)\)"  # what the code's variables are called

bad = []
for path in sorted([*ROOT.rglob("*.hpp"), *ROOT.rglob("*.cuh")]):
    name = path.relative_to(ROOT)
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines[0].startswith(f"// {name}: "):
        bad.append(f"{name}:1: the first line should be '// {name}: what it is for'")
    if "#pragma once" not in lines:
        bad.append(f"{name}: has no #pragma once")
    floor = name.parts[0] if len(name.parts) > 1 else None
    if floor and floor not in FLOORS:
        bad.append(f"{name}: '{floor}' is no floor of tools/check_includes.py")
        continue
    for number, line in enumerate(lines, 1):
        call = re.search(r"std::filesystem::(\w+)\(", line)
        if call and call.group(1) not in ("path", "temp_directory_path") and not re.search(ERROR_CODE, line):
            bad.append(f"{name}:{number}: std::filesystem::{call.group(1)} throws what is no ft::Error: use io/file.hpp's, "
                       "or give it a std::error_code")
        found = re.match(r"\s*#\s*include\s*([<\"])([^>\"]+)", line)
        if not found:
            continue
        target = found.group(2)
        if found.group(1) == '"':
            bad.append(f"{name}:{number}: include our own headers as <ftlib/...>")
        if target.startswith("Eigen/") and not name.name.endswith(".cpu.hpp"):
            bad.append(f"{name}:{number}: Eigen appears in *.cpu.hpp only")
        if target.startswith("cu") and target.endswith(".h") and not name.name.endswith(".cuda.cuh"):
            bad.append(f"{name}:{number}: CUDA appears in *.cuda.cuh only")
        if (target == "mpi.h" and str(name) != "distributed/mpi.hpp") or target == "ftlib/distributed/mpi.hpp":
            bad.append(f"{name}:{number}: MPI appears in distributed/mpi.hpp only, which programs include")
        if (target == "nccl.h" and str(name) != "distributed/nccl.cuda.cuh") or target == "ftlib/distributed/nccl.cuda.cuh":
            bad.append(f"{name}:{number}: NCCL appears in distributed/nccl.cuda.cuh only, which programs include")
        if not target.startswith("ftlib/"):
            continue
        gated = name.name.endswith(".cuda.cuh") or lines[number - 2].strip() == "#if FTLIB_WITH_CUDA"
        if target.endswith(".cuda.cuh") and not gated:
            bad.append(f"{name}:{number}: a CUDA file is included under #if FTLIB_WITH_CUDA only")
        kernels = target.endswith(".cpu.hpp") and target != "ftlib/tensor/context.cpu.hpp"
        if kernels and not name.name.endswith(".cpu.hpp") and lines[number - 2].strip() != "#if FTLIB_HEADER_ONLY":
            bad.append(f"{name}:{number}: the CPU's kernels are included under #if FTLIB_HEADER_ONLY only")
        if not (ROOT.parent / target).exists():
            bad.append(f"{name}:{number}: {target} does not exist")
        if name.name.endswith(".cuda.cuh") and target.endswith(".cpu.hpp"):
            bad.append(f"{name}:{number}: a CUDA file includes a CPU file")
        parts = target.split("/")
        if floor and len(parts) > 2:
            to = parts[1]
            if (FLOORS.index(to) > FLOORS.index(floor) and (floor, to) not in BESIDE) or (floor, to) in APART:
                bad.append(f"{name}:{number}: {floor}/ includes {to}/, which points up")
# No circle of files: #pragma once would hide it until somebody includes them in another order. What a header-only build
# includes at the end of a header (its own x.inl.hpp) comes after the declarations and does not count.
includes = {}
for path in sorted([*ROOT.rglob("*.hpp"), *ROOT.rglob("*.cuh")]):
    name = str(path.relative_to(ROOT))
    targets = re.findall(r"^\s*#\s*include\s*<ftlib/([^>]+)>", path.read_text(encoding="utf-8"), re.M)
    includes[name] = [t for t in targets if t != name.replace(".hpp", ".inl.hpp")]
done = set()


def walk(name, above):
    if name in above:
        bad.append("a circle of includes: " + " -> ".join([*above[above.index(name):], name]))
    elif name not in done:
        for target in includes.get(name, []):
            walk(target, [*above, name])
        done.add(name)


for name in includes:
    walk(name, [])
# A program that links a runtime finds only what its list names.
for device, list_name, entry in [("Cuda", "cuda_runtime.cuda.cuh", r"EXTERN template \w+ (\w+)"),
                                 ("Cpu", "cpu_runtime.hpp", r"X\(\w*, (\w+),|^template <.* void (\w+)\(")]:
    listed = {name for names in re.findall(entry, (ROOT / list_name).read_text(encoding="utf-8"), re.M)
              for name in ([names] if isinstance(names, str) else names)}
    for path in sorted([*ROOT.rglob("*.cuda.cuh"), *ROOT.rglob("*.cpu.hpp")]):
        detail = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.match(r"namespace (ft::inline FTLIB_ABI::)?detail \{", line):
                detail = True
            elif re.match(r"\}  // namespace (ft::inline FTLIB_ABI::)?detail", line):
                detail = False
            launcher = re.search(rf"\b(\w+)\(Context<{device}>&( ctx)?,", line)
            if launcher and not detail and launcher.group(1) not in listed and path.name != "nccl.cuda.cuh":
                bad.append(f"{path.relative_to(ROOT)}:{number}: {launcher.group(1)} is not in {list_name}")
print("\n".join(bad) if bad else "includes: all arrows point down")
sys.exit(1 if bad else 0)
