// tests/packaging/cuda/on_gpu.cu: the same as .cu, with everything inline.
#include "on_gpu.cpp"
