// tests/cuda_emulation/kernels.cpp: what is shipped, compiled for the CPU once.
#include "../../src/cuda_runtime.cu"
