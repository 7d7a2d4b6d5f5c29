// ops/gemm.shared.hpp: the operands of a matrix product, as every device takes them.
#pragma once
#include <ftlib/core/dtype.hpp>  // DType
#include <ftlib/core/error.hpp>  // Error

#include <cstddef>  // std::byte

namespace ft::inline FTLIB_ABI {

/// A dense matrix with any strides, in elements; a transpose is the two strides exchanged.
template <class T> struct DenseOperand {
  const T* data;
  int64_t row_stride, col_stride;
};

enum class Transpose { no, yes };

/// A stored weight W (rows, cols), row-major without gaps, of any type and at any address, as the factor B:
/// B = W^T (Transpose::yes: K = cols, N = rows) or B = W (Transpose::no: K = rows, N = cols).
struct StoredOperand {
  DType type;
  const std::byte* data;
  int64_t rows, cols;
  Transpose transpose;

  int64_t row_bytes() const { return storage_bytes(type, cols); }
};

namespace detail {
/// Throws Error where sizes are negative, or a stored B does not fit.
template <class T> void check_gemm(int64_t M, int64_t N, int64_t K, const DenseOperand<T>&) {
  if (M < 0 || N < 0 || K < 0) throw Error(str("gemm: negative size: M ", M, ", N ", N, ", K ", K));
}
inline void check_gemm(int64_t M, int64_t N, int64_t K, const StoredOperand& b) {
  const bool yes = b.transpose == Transpose::yes;
  if (M < 0 || K != (yes ? b.cols : b.rows) || N != (yes ? b.rows : b.cols))
    throw Error(str("gemm: (", M, ", ", K, ") times (", K, ", ", N, ") does not fit a stored weight of shape (", b.rows,
                    ", ", b.cols, ")", yes ? ", transposed" : ""));
  if (b.cols % info(b.type).block != 0)
    throw Error(str("gemm: rows of ", b.cols, " elements are not whole ", b.type, " blocks of ", info(b.type).block));
}
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
