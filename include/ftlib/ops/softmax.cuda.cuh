// ops/softmax.cuda.cuh: softmax and its logarithm over rows on the GPU, forward and backward.
#pragma once
#include <ftlib/ops/kinds.hpp>        // SoftmaxResult
#include <ftlib/cuda/reduce.cuda.cuh>  // warp_sum, warp_max

#include <cmath>  // std::exp, std::log

namespace ft::inline FTLIB_ABI {

namespace detail {

// Both: one warp a row, V elements a lane and load; a row is read again from the cache. Moves 2 (forward) or 3 N C
// sizeof(T) bytes.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    softmax_kernel(T* y, const T* x, int64_t N, int64_t C, SoftmaxResult result) {
  using A = accumulate_t<T>;
  const int64_t n = row();
  if (n >= N) return;
  A largest = -INFINITY, sum = 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(x + n * C + c);
    for (int k = 0; k < V; ++k) largest = largest < widen(xs.v[k]) ? widen(xs.v[k]) : largest;
  }
  largest = warp_max(largest);
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(x + n * C + c);
    for (int k = 0; k < V; ++k) sum += std::exp(widen(xs.v[k]) - largest);
  }
  sum = warp_sum(sum);
  const A offset = largest + std::log(sum), factor = 1 / sum;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(x + n * C + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k)
      out.v[k] = narrow<T>(result == SoftmaxResult::logarithm ? widen(xs.v[k]) - offset
                                                              : std::exp(widen(xs.v[k]) - largest) * factor);
    store(y + n * C + c, out);
  }
}

// softmax: dx = y (dy - sum(dy y));  log softmax: dx = dy - exp(y) sum(dy)
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    softmax_backward_kernel(T* dx, const T* dy, const T* y, int64_t N, int64_t C, SoftmaxResult result) {
  using A = accumulate_t<T>;
  const int64_t n = row();
  if (n >= N) return;
  const bool logarithm = result == SoftmaxResult::logarithm;
  A sum = 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto dys = load<V>(dy + n * C + c), ys = load<V>(y + n * C + c);
    for (int k = 0; k < V; ++k) sum += logarithm ? widen(dys.v[k]) : widen(dys.v[k]) * widen(ys.v[k]);
  }
  sum = warp_sum(sum);
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto dys = load<V>(dy + n * C + c), ys = load<V>(y + n * C + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) {
      const A dyk = widen(dys.v[k]), yk = widen(ys.v[k]);
      out.v[k] = narrow<T>(logarithm ? dyk - std::exp(yk) * sum : yk * (dyk - sum));
    }
    store(dx + n * C + c, out);
  }
}

}  // namespace detail

template <Scalar T>
void softmax_forward(Context<Cuda>& ctx,
                     View<T> y,  // (N, C)
                     In<T> x,    // (N, C)
                     SoftmaxResult result) {
  constexpr int V = detail::pack_size<T>;
  launch(
      detail::rows_aligned16<T>(x.cols(), y.data, x.data) ? detail::softmax_kernel<T, V> : detail::softmax_kernel<T, 1>,
      detail::grid_of_rows(x.rows()), detail::block_size, 0, ctx.stream(), y.data, x.data, x.rows(), x.cols(), result);
}

template <Scalar T>
void softmax_backward(Context<Cuda>& ctx,
                      View<T> dx,              // (N, C)  assigned
                      In<T> dy,                // (N, C)
                      In<T> y,                 // (N, C)  kept by softmax_forward
                      SoftmaxResult result) {  // what y is
  constexpr int V = detail::pack_size<T>;
  if (!dx) return;
  launch(detail::rows_aligned16<T>(y.cols(), dx.data, dy.data, y.data) ? detail::softmax_backward_kernel<T, V>
                                                                       : detail::softmax_backward_kernel<T, 1>,
         detail::grid_of_rows(y.rows()), detail::block_size, 0, ctx.stream(), dx.data, dy.data, y.data, y.rows(),
         y.cols(), result);
}

}  // namespace ft::inline FTLIB_ABI
