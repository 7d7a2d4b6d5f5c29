// ops/sink.cuda.cuh: attention sinks on the GPU, forward and backward.
#pragma once
#include <ftlib/cuda/reduce.cuda.cuh>  // row, lane, warp_sum
#include <ftlib/tensor/view.hpp>       // View, In

#include <cmath>  // std::exp, std::log

namespace ft::inline FTLIB_ABI {

namespace detail {

// y (N, H, hd) and lse (H, N) with the sink in the denominator. One warp a head of a token, V elements a lane and load.
// Moves y twice.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    sink_kernel(T* y, accumulate_t<T>* lse, const T* sinks, int64_t N, int64_t H, int64_t hd) {
  using A = accumulate_t<T>;
  const int64_t i = row(), n = i / H, h = i % H;
  if (i >= N * H) return;
  const A sum = lse[h * N + n], sink = widen(sinks[h]), largest = sum < sink ? sink : sum;
  const A total = largest + std::log(std::exp(sum - largest) + std::exp(sink - largest)), share = std::exp(sum - total);
  for (int64_t c = lane() * V; c < hd; c += 32 * V) {
    auto ys = load<V>(y + i * hd + c);
    for (int k = 0; k < V; ++k) ys.v[k] = narrow<T>(share * widen(ys.v[k]));
    store(y + i * hd + c, ys);
  }
  __syncwarp();  // all lanes have read the sum
  if (lane() == 0) lse[h * N + n] = total;
}

// dsinks[h] -= sum over n of e^(sink - lse) dy y. One block a head, whose warps take tokens in turn and are added in
// their order. Moves dy and y once. (256, 4): <= 64 registers.
template <class T, int V>
__global__ void __launch_bounds__(block_size, 4)
    sink_backward_kernel(accumulate_t<T>* dsinks, const T* dy, int64_t dy_step, const T* y,
                         const accumulate_t<T>* lse, const T* sinks, int64_t N, int64_t H, int64_t hd) {
  using A = accumulate_t<T>;
  __shared__ A sums[warps];
  const int64_t h = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x / 32);
  A sum = 0;
  for (int64_t n = warp; n < N; n += warps) {
    A dot = 0;
    for (int64_t c = lane() * V; c < hd; c += 32 * V) {
      const auto dys = load<V>(dy + n * dy_step + h * hd + c), ys = load<V>(y + (n * H + h) * hd + c);
      for (int k = 0; k < V; ++k) dot += widen(dys.v[k]) * widen(ys.v[k]);
    }
    sum += std::exp(widen(sinks[h]) - lse[h * N + n]) * warp_sum(dot);
  }
  if (lane() == 0) sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  A total = 0;
  for (int w = 0; w < warps; ++w) total += sums[w];
  dsinks[h] -= total;
}

}  // namespace detail

/// Brings a sink into the denominator of a softmax that was computed without: with l = log(e^lse + e^sink),
/// y <- y e^(lse - l) and lse <- l.
template <Scalar T>
void sink_forward(Context<Cuda>& ctx,
                  View<T> y,                  // (N, H, hd)  changed
                  View<accumulate_t<T>> lse,  // (H, N)      changed
                  In<T> sinks) {              // (H)
  using namespace detail;
  const int64_t N = y.shape[0], H = y.shape[1], hd = y.shape[2];
  if (N == 0) return;
  launch(rows_aligned16<T>(hd, y.data) ? sink_kernel<T, pack_size<T>> : sink_kernel<T, 1>, grid_of_rows(N * H),
         block_size, 0, ctx.stream(), y.data, lse.data, sinks.data, N, H, hd);
}

/// dsink -= sum over tokens of e^(sink - lse) dy y, with y and lse as sink_forward left them.
template <Scalar T>
void sink_backward(Context<Cuda>& ctx,
                   View<accumulate_t<T>> dsinks,  // (H)         added
                   View<const T> dy,              // (N, H, hd)  any stride of N
                   In<T> y,                       // (N, H, hd)
                   In<accumulate_t<T>> lse,       // (H, N)
                   In<T> sinks) {                 // (H)
  using namespace detail;
  const int64_t N = y.shape[0], H = y.shape[1], hd = y.shape[2];
  if (N == 0) return;
  const bool packs = rows_aligned16<T>(hd, dy.data, y.data) && dy.strides[0] % pack_size<T> == 0;
  launch(packs ? sink_backward_kernel<T, pack_size<T>> : sink_backward_kernel<T, 1>, grid_of(H), block_size, 0,
         ctx.stream(), dsinks.data, dy.data, dy.strides[0], y.data, lse.data, sinks.data, N, H, hd);
}

}  // namespace ft::inline FTLIB_ABI
