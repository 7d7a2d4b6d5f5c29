// tests/cuda_emulation/instantiations.cu: every kernel for every type, for tools/check_cuda.py to compile and to look
// into: what is shipped, and half.
#include "../../src/cuda_runtime.cu"

namespace ft::inline FTLIB_ABI {
FTLIB_CUDA_TEMPLATES(, half)
}  // namespace ft::inline FTLIB_ABI
