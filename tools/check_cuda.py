#!/usr/bin/env python3
"""Compiles every kernel with nvcc and reads what came out: fails on a warning, on a spill or local memory, on more
registers than let the promised number of blocks run side by side, on a kernel of packs (template argument V > 1) that
has no 16-byte load or store in its PTX, and on an attention kernel that copies no 16 bytes to shared memory or, of 16-bit
types, uses no tensor core. A kernel promises 4 blocks of 256 threads, or what its __launch_bounds__(threads, blocks) says.
Says so, and succeeds, where there is no nvcc.

    tools/check_cuda.py [80 89 90 100 120]     compute capabilities; all of these by default, two minutes each
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
source = root / "tests/cuda_emulation/instantiations.cu"
nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
if not nvcc:
    print("check_cuda: no nvcc here, so nothing is compiled")
    sys.exit(0)
flags = ["-std=c++20", "--expt-relaxed-constexpr", "-DFTLIB_WITH_CUDA=1", f"-I{root / 'include'}", "-Werror", "all-warnings",
         "-Xcompiler", "-Wall,-Wextra"]
REGISTERS, PROMISE = 65536, (256, 4)  # of an SM; threads of a block, and blocks, where a kernel does not say
bad = []


def compiled(*arguments):
    result = subprocess.run([nvcc, *flags, *arguments, str(source)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"check_cuda: nvcc {' '.join(arguments)} failed\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def demangled(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True).stdout.splitlines()
    return [re.sub(r"ft::v1_cuda::(detail::)?|\(int\)", "", n).split(">(")[0] for n in text]


def ptx():
    """(mangled name, text) of each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernels.ptx")
        compiled("-arch=compute_80", "-ptx", "-o", path)
        return re.findall(r"\.entry (\w+)\((.*?)^}", Path(path).read_text(), re.S | re.M)


def promises(entries):
    found = {}
    for name, body in entries:
        threads, blocks = re.search(r"\.maxntid (\d+)", body), re.search(r"\.minnctapersm (\d+)", body)
        found[name] = (int(threads[1]), int(blocks[1])) if threads and blocks else PROMISE
    return found


def check_resources(sm, promised):
    with tempfile.TemporaryDirectory() as folder:
        report = compiled(f"-arch=sm_{sm}", "--resource-usage", "-cubin", "-o", os.path.join(folder, "kernels.cubin"))
    kernels = re.findall(r"Compiling entry function '(\w+)'.*?\n.*?\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores"
                         r".*?\n.*?Used (\d+) registers", report)
    if not kernels:
        sys.exit(f"check_cuda: sm_{sm}: ptxas reports no kernels\n{report[:2000]}")
    most = 0
    for name, (mangled, stack, spilled, registers) in zip(demangled([k[0] for k in kernels]), kernels):
        threads, blocks = promised[mangled]
        most = max(most, int(registers))
        if int(stack) or int(spilled):
            bad.append(f"sm_{sm}: {name}: {stack} bytes of local memory, {spilled} spilled")
        if int(registers) * threads * blocks > REGISTERS:
            bad.append(f"sm_{sm}: {name}: {registers} registers, so fewer than {blocks} blocks run side by side")
    print(f"sm_{sm}: {len(kernels)} kernels, no warnings, at most {most} registers")


def check_instructions(entries):
    packs = attention = 0
    for name, (_, body) in zip(demangled([e[0] for e in entries]), entries):
        if found := re.match(r"void attention_(?:queries_|keys_)?kernel<(\w+)", name):
            attention += 1
            if "cp.async.cg.shared.global" not in body:
                bad.append(f"{name}: no 16-byte copy to shared memory")
            if found[1] in ("bfloat16", "half") and "mma.sync" not in body:
                bad.append(f"{name}: no mma instruction")
        if not re.search(r"\b(4|8)\b", name):
            continue
        packs += 1
        # Without .global: at an address that the kernel has read from a table.
        wide = re.findall(r"\b(?:ld|st)(?:\.global\S*)?\.v(?:4\.[fubs]32|2\.[fubs]64)", body)
        if not wide and not name.startswith("void dropout_kernel"):  # of 16 bits it has 8 bytes: one counter's numbers
            bad.append(f"{name}: no 16-byte load or store")
    print(f"PTX: {packs} kernels of packs, {attention} of attention")


kernels_of = ptx()
check_instructions(kernels_of)
for sm in sys.argv[1:] or ["80", "89", "90", "100", "120"]:
    check_resources(sm, promises(kernels_of))
print("\n".join(bad) if bad else "check_cuda: no spills, no local memory, 16-byte accesses where they are meant")
sys.exit(1 if bad else 0)
