#!/usr/bin/env python3
"""Compiles distributed/nccl.cuda.cuh with nvcc against NCCL's own header, as ftlib::cuda has it and as ftlib::cuda_runtime (g++,
kernels elsewhere): fails on an error or a warning. The tests have a stand-in for NCCL, which this holds against the real one.
Says so, and succeeds, where there is no nvcc or no nccl.h.

    tools/check_nccl.py [FOLDER]     where nccl.h is: /usr/local/cuda/include, /usr/local/include, /usr/include are looked through
"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
folders = sys.argv[1:] or ["/usr/local/cuda/include", "/usr/local/include", "/usr/include"]
found = [f for f in folders if (Path(f) / "nccl.h").exists()]
if not nvcc or not found:
    print(f"check_nccl: no {'nccl.h' if nvcc else 'nvcc'} here, so nothing is compiled")
    sys.exit(0)
toolkit = Path(nvcc).resolve().parent.parent / "include"
source = """#include <ftlib/distributed/nccl.cuda.cuh>
ft::Communicator* use(ft::Communicator& host) {
  if (auto world = ft::nccl_from_environment()) return world.release();
  return ft::nccl_over(host, 0).release();
}
"""
includes = [f"-I{root / 'include'}", "-isystem", found[0]]
with tempfile.TemporaryDirectory() as folder:
    for name, command in {"a.cu": [nvcc, "-std=c++20", "--expt-relaxed-constexpr", "-arch=compute_80", "-ptx", "-Werror", "all-warnings",
                                   "-DEIGEN_NO_CUDA", "-isystem", "/usr/include/eigen3"],
                          "b.cpp": ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror",
                                    "-Wno-unknown-pragmas", "-DFTLIB_HEADER_ONLY=0", "-DFTLIB_CUDA_RUNTIME=1", "-isystem", toolkit]}.items():
        file = Path(folder) / name
        file.write_text(source)
        output = ["-o", Path(folder) / "a.ptx"] if name == "a.cu" else []
        done = subprocess.run([*command, "-DFTLIB_WITH_CUDA=1", *includes, *output, file], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"check_nccl: {name} does not compile with {found[0]}/nccl.h\n{done.stdout}{done.stderr}")
version = [line.split()[-1] for line in (Path(found[0]) / "nccl.h").read_text().splitlines() if line.startswith(("#define NCCL_MAJOR", "#define NCCL_MINOR"))]
print(f"check_nccl: compiles with NCCL {'.'.join(version)}, by nvcc and by g++")
