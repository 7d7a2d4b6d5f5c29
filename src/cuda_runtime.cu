// src/cuda_runtime.cu: the one translation unit that nvcc must compile, so that programs can be .cpp: see docs/cuda.md.
#include <ftlib/cuda_runtime.cuda.cuh>

namespace ft::inline FTLIB_ABI {
FTLIB_CUDA_TEMPLATES(, float)
FTLIB_CUDA_TEMPLATES(, bfloat16)
FTLIB_CUDA_COMMON_TEMPLATES()
}  // namespace ft::inline FTLIB_ABI
