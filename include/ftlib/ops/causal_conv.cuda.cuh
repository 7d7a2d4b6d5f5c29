// ops/causal_conv.cuda.cuh: the short causal convolution on the GPU, forward and backward.
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>    // load, store
#include <ftlib/cuda/reduce.cuda.cuh>  // row, lane, grid_of_rows
#include <ftlib/tensor/view.hpp>       // View

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

// y[n] = sum over t < reach[n] of taps[L - 1 - t] x[first[n] + direction t]. One warp a row, V elements a lane and
// load; sums in float. Rows of x that neighbours read come from the cache.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    causal_conv_kernel(T* y, const T* x, const T* taps, const int32_t* first, const int32_t* reach, int64_t N,
                       int64_t C, int64_t L, int64_t direction) {
  const int64_t n = row();
  if (n >= N) return;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    accumulate_t<T> sum[V] = {};
    for (int64_t t = 0; t < reach[n]; ++t) {
      const auto xs = load<V>(x + (first[n] + direction * t) * C + c), ws = load<V>(taps + (L - 1 - t) * C + c);
      for (int k = 0; k < V; ++k) sum[k] += widen(ws.v[k]) * widen(xs.v[k]);
    }
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) out.v[k] = narrow<T>(sum[k]);
    store(y + n * C + c, out);
  }
}

// dtaps[L - 1 - t] = sum over n with t < reach[n] of dy[n] x[n - t]. One thread a column and t, which walks over all
// rows: neighbours read one line, and nothing is atomic.
template <class T>
__global__ void __launch_bounds__(block_size)
    causal_conv_weights_kernel(accumulate_t<T>* dtaps, const T* dy, const T* x, const int32_t* reach, int64_t N,
                               int64_t C, int64_t L) {
  const int64_t i = blockIdx.x * int64_t{block_size} + threadIdx.x, t = i / C, c = i % C;
  if (t >= L) return;
  accumulate_t<T> sum = 0;
  for (int64_t n = t; n < N; ++n)
    if (t < reach[n]) sum += widen(dy[n * C + c]) * widen(x[(n - t) * C + c]);
  dtaps[(L - 1 - t) * C + c] = sum;
}

}  // namespace detail

/// y[n] = sum over t < reach[n] of taps[L - 1 - t] x[row[n] + direction t].
template <Scalar T>
void causal_conv_apply(Context<Cuda>& ctx,
                       View<T> y,                          // (N, C)  assigned
                       In<T> x,                            // (K, C)
                       In<T> taps,                         // (L, C)
                       const std::vector<int32_t>& row,    // (N)
                       const std::vector<int32_t>& reach,  // (N)
                       int64_t direction) {                // -1 forward, 1 backward
  if (y.count() == 0) return;
  const auto first = ctx.upload(row), many = ctx.upload(reach);
  const int64_t N = y.rows(), C = y.cols();
  launch(detail::rows_aligned16<T>(C, y.data, x.data, taps.data) ? detail::causal_conv_kernel<T, detail::pack_size<T>>
                                                                 : detail::causal_conv_kernel<T, 1>,
         detail::grid_of_rows(N), detail::block_size, 0, ctx.stream(), y.data, x.data, taps.data, first.get(),
         many.get(), N, C, taps.rows(), direction);
}

/// dtaps[L - 1 - t] = sum over n with t < reach[n] of dy[n] x[n - t].
template <Scalar T>
void causal_conv_weights(Context<Cuda>& ctx,
                         View<accumulate_t<T>> dtaps,          // (L, C)  assigned
                         View<const T> dy,                     // (N, C)
                         In<T> x,                              // (N, C)
                         const std::vector<int32_t>& reach) {  // (N)
  const auto many = ctx.upload(reach);
  const int64_t C = dtaps.cols(), L = dtaps.rows();
  launch(detail::causal_conv_weights_kernel<T>, detail::grid_of(detail::ceil_div(L * C, detail::block_size)),
         detail::block_size, 0, ctx.stream(), dtaps.data, dy.data, x.data, many.get(), dy.rows(), C, L);
}

}  // namespace ft::inline FTLIB_ABI
