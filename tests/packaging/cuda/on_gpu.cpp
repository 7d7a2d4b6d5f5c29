// tests/packaging/cuda/on_gpu.cpp: the library on the GPU.
#include <ftlib/cuda_runtime.cuda.cuh>

#include "on_device.hpp"

float on_gpu() { return on_device<ft::Cuda>(); }
