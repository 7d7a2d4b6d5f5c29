// ops/conv2d.cuda.cuh: what a convolution's window covers, as rows of a matrix, on the GPU.
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>     // load, store
#include <ftlib/cuda/reduce.cuda.cuh>   // row, lane, grid_of_rows
#include <ftlib/ops/conv2d.shared.hpp>  // Patches
#include <ftlib/ops/linear.cuda.cuh>    // gemm, add_column_sums

namespace ft::inline FTLIB_ABI {

namespace detail {
// columns[n][tap] = what the tap of place first + n reads. One warp a tap, V elements a lane and load; rows of x that
// neighbours read come from the cache. Writes N kh kw C sizeof(T) bytes: bound by memory.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    gather_patches_kernel(T* columns, const T* x, Patches at, int64_t first, int64_t N) {
  const int64_t taps = at.kh * at.kw, n = row() / taps, tap = row() % taps;
  if (n >= N) return;
  const int64_t place = first + n, line = place / at.cols, b = line / at.rows;
  const int64_t y = at.source(line % at.rows, tap / at.kw, at.top, at.H),
                s = at.source(place % at.cols, tap % at.kw, at.left, at.W);
  const T* const from = y < 0 || s < 0 ? nullptr : x + ((b * at.H + y) * at.W + s) * at.C;
  T* const to = columns + (n * taps + tap) * at.C;
  for (int64_t c = lane() * V; c < at.C; c += 32 * V) {
    Pack<T, V> out;
    if (from) out = load<V>(from + c);
    else
      for (int k = 0; k < V; ++k) out.v[k] = narrow<T>(0.0f);
    store(to + c, out);
  }
}
}  // namespace detail

/// Row n of `columns` = the patch of place first + n.
template <Scalar T>
void gather_patches(Context<Cuda>& ctx,
                    View<T> columns,  // (N, kh kw C)  assigned
                    In<T> x,          // (B, H, W, C)
                    const Patches& at, int64_t first) {
  if (columns.count() == 0) return;
  launch(detail::rows_aligned16<T>(at.C, columns.data, x.data) ? detail::gather_patches_kernel<T, detail::pack_size<T>>
                                                               : detail::gather_patches_kernel<T, 1>,
         detail::grid_of_rows(columns.rows() * at.kh * at.kw), detail::block_size, 0, ctx.stream(), columns.data,
         x.data, at, first, columns.rows());
}

}  // namespace ft::inline FTLIB_ABI
