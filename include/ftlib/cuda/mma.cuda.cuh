// cuda/mma.cuda.cuh: tensor cores: the product of two small matrices of 16-bit floats that the lanes of a warp hold
// together, and the load that deals a matrix out to them. Where which element lies is fixed by the PTX ISA, "Matrix
// Fragments for mma.m16n8k16 with floating point type" and "ldmatrix".
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>  // widen, narrow

#include <bit>      // std::bit_cast
#include <cstdint>  // std::uint32_t

// Instructions that have no name in C++. Without nvcc it is the emulation's cuda_runtime.h that has these functions.
#ifdef __CUDACC__
namespace ftlib_ptx {
__device__ inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// "memory": the rows were written by instructions that the compiler must not move behind this one.
__device__ inline void ldmatrix(std::uint32_t (&m)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void ldmatrix_transposed(std::uint32_t (&m)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
}  // namespace ftlib_ptx
#endif

namespace ft::inline FTLIB_ABI::detail {

/// Types that tensor cores multiply; sums are float.
template <class T>
concept TensorCore = std::same_as<T, bfloat16> || std::same_as<T, half>;

// All lanes of the warp call these together. Lane l is member t = l % 4 of group g = l / 4; a register has two
// elements, the lower column (of b: row) in its lower half.

/// c += a b with a (16, 16), b (16, 8), c (16, 8). The lane holds of
///   a: row g, columns 2t and 2t + 1; row g + 8, the same; row g, columns 2t + 8 and 2t + 9; row g + 8, the same;
///   b: column g, rows 2t and 2t + 1; the same, rows 2t + 8 and 2t + 9;
///   c: row g, columns 2t and 2t + 1; row g + 8, the same.
template <TensorCore T>
__device__ void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::same_as<T, bfloat16>) ftlib_ptx::mma_bf16(c, a, b0, b1);
  else ftlib_ptx::mma_f16(c, a, b0, b1);
}

enum class Order { rows, columns };

/// Four matrices (8, 8) of shared memory. Lane l says where row l % 8 of matrix l / 8 lies: 16 bytes, and so aligned.
/// m[i] is of matrix i: row g, columns 2t and 2t + 1; of Order::columns, column g, rows 2t and 2t + 1.
template <Order order, TensorCore T> __device__ void load_matrices(std::uint32_t (&m)[4], const T* row) {
  if constexpr (order == Order::rows) ftlib_ptx::ldmatrix(m, row);
  else ftlib_ptx::ldmatrix_transposed(m, row);
}

/// Two elements in a register, the first in the lower half.
template <TensorCore T> __device__ std::uint32_t pair_of(float first, float second) {
  if constexpr (std::same_as<T, bfloat16>)
    return std::bit_cast<std::uint32_t>(__nv_bfloat162_raw(__floats2bfloat162_rn(first, second)));
  else return std::bit_cast<std::uint32_t>(__half2_raw(__floats2half2_rn(first, second)));
}

}  // namespace ft::inline FTLIB_ABI::detail
