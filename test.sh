#!/usr/bin/env bash
# Installs what is missing, builds everything and passes the tests. Further arguments go to CMake.
set -euo pipefail
cd "$(dirname "$0")"
./install_deps.sh build pictures test
cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DFTLIB_TESTS=ON -DFTLIB_EXAMPLES=ON -DFTLIB_INSTRUCTION_SETS=all "$@"
cmake --build build -j "$(nproc)"
ctest --test-dir build --output-on-failure -j "$(nproc)"
