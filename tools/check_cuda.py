#!/usr/bin/env python3
"""Compiles every kernel with nvcc and reads what came out: fails on a warning, on a spill or local memory, on more
registers than let the promised number of blocks run side by side, on a kernel of packs (template argument V > 1) that
has no 16-byte load or store in its PTX, and on an attention kernel that copies no 16 bytes to shared memory or, of 16-bit
types, uses no tensor core. A kernel promises 4 blocks of 256 threads, or what its __launch_bounds__(threads, blocks) says.
Says so, and succeeds, where there is no nvcc.

    tools/check_cuda.py [80 89 90 100 120]          compute capabilities; all of these by default
    tools/check_cuda.py --full [80 ...]             the types that are not shipped too (half), and nvcc itself for each
    tools/check_cuda.py --json REPORT.json [80 ...]  also writes down what was found, for tools/roofline.py

nvcc makes PTX once (45 s of CPU time), and ptxas makes of that the code of each GPU (27 s), as many at a time as there
are cores; nvcc for each GPU (--full) takes two minutes. Half of each is attention in float.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--full", action="store_true")
parser.add_argument("--json", type=Path)
parser.add_argument("sm", nargs="*", default=["80", "89", "90", "100", "120"])
arguments = parser.parse_args()
source = root / ("tests/cuda_emulation/instantiations.cu" if arguments.full else "src/cuda_runtime.cu")
nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
if not nvcc:
    print("check_cuda: no nvcc here, so nothing is compiled")
    sys.exit(0)
ptxas = Path(nvcc).resolve().parent / "ptxas"
flags = ["-std=c++20", "--expt-relaxed-constexpr", "-DFTLIB_WITH_CUDA=1", f"-I{root / 'include'}", "-Werror", "all-warnings",
         "--split-compile=0"]
REGISTERS, PROMISE = 65536, (256, 4)  # of an SM; threads of a block, and blocks, where a kernel does not say
bad = []


def run(*command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"check_cuda: {' '.join(str(c) for c in command)} failed\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def demangled(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True).stdout.splitlines()
    return [re.sub(r"ft::v\d+_\d+_cuda::(detail::)?|\(int\)", "", n).split(">(")[0] for n in text]


def kernels_in(ptx):
    """(mangled name, text) of each kernel."""
    entries = re.findall(r"\.entry (\w+)\((.*?)^}", ptx.read_text(), re.S | re.M)
    if not entries:
        sys.exit(f"check_cuda: nvcc made no kernel of {source}")
    return entries


def promises(entries):
    found = {}
    for name, body in entries:
        threads, blocks = re.search(r"\.maxntid (\d+)", body), re.search(r"\.minnctapersm (\d+)", body)
        found[name] = (int(threads[1]), int(blocks[1])) if threads and blocks else PROMISE
    return found


def resources(sm, folder, ptx):
    """What ptxas says, for a GPU; it stops at a warning."""
    cubin = os.path.join(folder, f"{sm}.cubin")
    if arguments.full:
        return run(nvcc, *flags, f"-arch=sm_{sm}", "--resource-usage", "-cubin", "-o", cubin, source)
    return run(ptxas, f"-arch=sm_{sm}", "-v", "--warning-as-error", ptx, "-o", cubin)


def check_resources(sm, report, promised, found):
    kernels = re.findall(r"Compiling entry function '(\w+)'.*?\n.*?\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores"
                         r".*?\n.*?Used (\d+) registers(.*)", report)
    if {k[0] for k in kernels} != set(promised):
        sys.exit(f"check_cuda: sm_{sm}: ptxas reports {len(kernels)} kernels, the PTX has {len(promised)}\n{report[:2000]}")
    most = 0
    for name, (mangled, stack, spilled, registers, rest) in zip(demangled([k[0] for k in kernels]), kernels):
        threads, blocks = promised[mangled]
        most = max(most, int(registers))
        shared = re.search(r"(\d+) bytes smem", rest)
        found[mangled][f"sm_{sm}"] = {"registers": int(registers), "shared": int(shared[1]) if shared else 0}
        if int(stack) or int(spilled):
            bad.append(f"sm_{sm}: {name}: {stack} bytes of local memory, {spilled} spilled")
        if int(registers) * threads * blocks > REGISTERS:
            bad.append(f"sm_{sm}: {name}: {registers} registers, so fewer than {blocks} blocks run side by side")
    print(f"sm_{sm}: {len(kernels)} kernels, no warnings, at most {most} registers")


def load_bytes(body):
    """Of all loads together that may be of global memory: what a thread can have on its way at most, without unrolling."""
    loads = re.findall(r"\bld(?!\.param|\.shared|\.local|\.const)[.\w:]*?(?:\.v(\d))?\.[fbus](\d+)\b", body)
    return sum(int(count or 1) * int(bits) // 8 for count, bits in loads)


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
    if not packs or not attention:
        sys.exit("check_cuda: no kernel of packs or none of attention: have their names changed?")
    print(f"PTX: {packs} kernels of packs, {attention} of attention")


with tempfile.TemporaryDirectory() as folder:
    ptx = Path(folder) / "kernels.ptx"
    run(nvcc, *flags, "-arch=compute_80", "-ptx", "-o", ptx, source)
    entries = kernels_in(ptx)
    promised = promises(entries)
    found = {name: {"load_bytes": load_bytes(body), "async": "cp.async" in body, "mma": "mma.sync" in body}
             for name, body in entries}
    check_instructions(entries)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for sm, report in zip(arguments.sm, pool.map(lambda sm: resources(sm, folder, ptx), arguments.sm)):
            check_resources(sm, report, promised, found)
if arguments.json:
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
print("\n".join(bad) if bad else "check_cuda: no spills, no local memory, 16-byte accesses where they are meant")
sys.exit(1 if bad else 0)
