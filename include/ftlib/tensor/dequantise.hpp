// tensor/dequantise.hpp: a whole stored weight into the compute type, on any device.
#pragma once
#include <ftlib/core/version.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/tensor/stored.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/tensor/stored.cuda.cuh>
#endif
