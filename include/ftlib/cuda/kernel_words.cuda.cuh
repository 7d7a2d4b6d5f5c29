// cuda/kernel_words.cuda.cuh: the words of kernels that a host compiler does not know. With them a .cpp that links
// ftlib::cuda_runtime can read kernels, which it never compiles: their launchers are in the shipped translation unit.
#pragma once
#include <cuda_bf16.h>     // __nv_bfloat162
#include <cuda_fp16.h>     // __half2
#include <cuda_runtime.h>  // dim3
#include <cstddef>         // std::size_t
#include <cstdint>         // std::uint32_t

#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif

extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;

void __syncthreads();
int atomicAdd(int* p, int value);
void __syncwarp(unsigned mask = ~0u);
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32);
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32);
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32);

void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes, std::size_t zeros = 0);
void __pipeline_commit();
void __pipeline_wait_prior(std::size_t groups);

namespace ftlib_ptx {  // see cuda/mma.cuda.cuh
void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
void ldmatrix(std::uint32_t (&m)[4], const void* row);
void ldmatrix_transposed(std::uint32_t (&m)[4], const void* row);
}  // namespace ftlib_ptx
