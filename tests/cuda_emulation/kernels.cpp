// tests/cuda_emulation/kernels.cpp: what is shipped, compiled for the CPU: a test that declares it `extern`, as
// benchmarks_test.cpp does, need not compile it again.
#include "../../src/cuda_runtime.cu"
