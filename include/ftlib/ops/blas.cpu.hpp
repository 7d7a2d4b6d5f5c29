// ops/blas.cpu.hpp: dense products by the BLAS that a host has anyway, where FTLIB_WITH_BLAS is 1 (CMake's FTLIB_BLAS).
// By its Fortran functions, which every BLAS has: OpenBLAS, MKL, Apple's Accelerate.
#pragma once
#include <ftlib/ops/gemm.shared.hpp>  // DenseOperand
#include <ftlib/ops/tile.cpu.hpp>     // Write

#include <algorithm>  // std::max, std::copy_n, std::fill_n
#include <concepts>   // std::same_as
#include <cstdint>    // std::int64_t
#include <limits>     // std::numeric_limits

// Matrices by columns; sizes are 32 bits, as all but builds of the name ILP64 have them.
extern "C" {
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k, const float* alpha,
            const float* a, const int* lda, const float* b, const int* ldb, const float* beta, float* c,
            const int* ldc);
void dgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k, const double* alpha,
            const double* a, const int* lda, const double* b, const int* ldb, const double* beta, double* c,
            const int* ldc);
[[gnu::weak]] void openblas_set_num_threads(int);  // of the process
[[gnu::weak]] int MKL_Set_Num_Threads_Local(int);  // of this thread
}

namespace ft::inline FTLIB_ABI {
namespace detail {
inline namespace FTLIB_SIMD {

/// Our threads call, each for a part of its own, so the library's own threads must not come on top. A library that is
/// neither of these goes by its environment.
inline void one_blas_thread() {
  if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(1);
  static const bool once = [] {
    if (openblas_set_num_threads) openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(once);
}

/// Whether a BLAS can read it: elements adjacent along one axis, rows along the other that do not overlap.
template <class T> bool fits_blas(const DenseOperand<T>& x, int64_t rows, int64_t cols) {
  constexpr int64_t most = std::numeric_limits<int>::max();
  if (std::max(rows, cols) > most || std::max(x.row_stride, x.col_stride) > most) return false;
  return (x.col_stride == 1 && x.row_stride >= cols) || (x.row_stride == 1 && x.col_stride >= rows);
}

/// C = or += alpha A B + bias, as gemm() has it, of operands that fit: a part of C that one thread computes. By
/// columns, as a BLAS sees them, it is C^T = B^T A^T.
template <class T>
void blas_part(Write write, int64_t M, int64_t N, int64_t K, T* c, int64_t c_row_stride, const DenseOperand<T>& a,
               const DenseOperand<T>& b, T alpha, const T* bias) {
  for (int64_t m = 0; bias && m < M; ++m) {
    T* row = c + m * c_row_stride;
    if (write == Write::assign) std::copy_n(bias, N, row);
    else
      for (int64_t n = 0; n < N; ++n) row[n] += bias[n];
  }
  const auto transposed = [](const DenseOperand<T>& x, int64_t cols) {
    return x.col_stride == 1 && x.row_stride >= cols ? 'N' : 'T';
  };
  const auto distance = [](const DenseOperand<T>& x, char t) {
    return static_cast<int>(std::max<int64_t>(1, t == 'N' ? x.row_stride : x.col_stride));
  };
  const char tb = transposed(b, N), ta = transposed(a, K);
  const int m = static_cast<int>(M), n = static_cast<int>(N), k = static_cast<int>(K), lda = distance(a, ta),
            ldb = distance(b, tb), ldc = static_cast<int>(c_row_stride);
  const T beta = bias || write == Write::add ? T{1} : T{0};
  if constexpr (std::same_as<T, float>)
    sgemm_(&tb, &ta, &n, &m, &k, &alpha, b.data, &ldb, a.data, &lda, &beta, c, &ldc);
  else dgemm_(&tb, &ta, &n, &m, &k, &alpha, b.data, &ldb, a.data, &lda, &beta, c, &ldc);
}

}  // namespace FTLIB_SIMD
}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
