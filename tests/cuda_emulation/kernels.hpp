// tests/cuda_emulation/kernels.hpp: declares what kernels.cpp compiles, so that a test need not compile it once more.
#pragma once
#include <ftlib/cuda_runtime.cuda.cuh>

namespace ft::inline FTLIB_ABI {
FTLIB_CUDA_TEMPLATES(extern, float)
FTLIB_CUDA_TEMPLATES(extern, bfloat16)
FTLIB_CUDA_COMMON_TEMPLATES(extern)
}  // namespace ft::inline FTLIB_ABI
