// ops/linear.cuda.cuh: what linear needs on the GPU: the matrix product and the gradient of a bias.
#pragma once
#include <ftlib/ops/gemm.cuda.cuh>    // gemm
#include <ftlib/cuda/reduce.cuda.cuh>  // add_column_sums

namespace ft::inline FTLIB_ABI {

namespace detail {
template <class T> struct RowsOf {
  const T* x;
  int64_t C;
  template <int V> __device__ void add(accumulate_t<T> (&sum)[V], int64_t n, int64_t c) const {
    const auto xs = load<V>(x + n * C + c);
    for (int k = 0; k < V; ++k) sum[k] += widen(xs.v[k]);
  }
};
}  // namespace detail

/// sums += the sum over rows of x: a bias's gradient.
template <Scalar T>
void add_column_sums(Context<Cuda>& ctx,
                     View<accumulate_t<T>> sums,  // (C)     added: a parameter's
                     View<const T> x) {           // (N, C)
  const detail::RowsOf<T> of{x.data, x.cols()};
  if (detail::rows_aligned16<T>(x.cols(), x.data))
    detail::add_column_sums<detail::pack_size<T>>(ctx, of, sums.data, x.rows(), x.cols());
  else detail::add_column_sums<1>(ctx, of, sums.data, x.rows(), x.cols());
}

/// da = or += du^T x, for R much below C.
template <Scalar T>
void flat_outer(Context<Cuda>& ctx, Write write,
                View<accumulate_t<T>> da,  // (R, C)
                View<const T> du,          // (N, R)
                In<T> x) {                 // (N, C)
  gemm(ctx, write, du.cols(), x.cols(), x.rows(), da.data, x.cols(), DenseOperand<T>{du.data, 1, du.cols()},
       DenseOperand<T>{x.data, x.cols(), 1});
}

}  // namespace ft::inline FTLIB_ABI
