// ops/rope.cuda.cuh: rotary positions on the GPU. Forward and backward are one kernel; backward turns the other way.
#pragma once
#include <ftlib/ops/kinds.hpp>         // RopePairing
#include <ftlib/cuda/pack.cuda.cuh>  // load, store
#include <ftlib/tensor/view.hpp>       // View

namespace ft::inline FTLIB_ABI {

namespace detail {

// One thread turns V pairs of a head, or copies V elements past the rotary size. half_split loads V elements of each
// half at once: 16 bytes, or V = 1 where sizes or pointers do not allow it; interleaved has V = 1. Moves x and y once;
// cosines and sines come from the cache.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    rope_kernel(T* y, const T* x, const T* cos, const T* sin, const int32_t* position, int64_t N, int64_t H, int64_t hd,
                int64_t half, int64_t stride, RopePairing pairing, accumulate_t<T> direction) {
  const int64_t pieces = (hd - half) / V;  // of a head: pairs, then what passes
  const int64_t i = blockIdx.x * int64_t{block_size} + threadIdx.x, c = i % pieces * V, h = i / pieces % H,
                n = i / pieces / H;
  if (n >= N) return;
  const T* const from = x + n * stride + h * hd;
  T* const to = y + (n * H + h) * hd;
  if (c >= half) {
    const auto passed = load<V>(from + half + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) out.v[k] = passed.v[k];  // nvcc stores a pack that it only copies piece by piece
    store(to + half + c, out);
    return;
  }
  const bool split = pairing == RopePairing::half_split;
  const int64_t first = split ? c : 2 * c, second = split ? c + half : 2 * c + 1;
  const auto as = load<V>(from + first), bs = load<V>(from + second);
  const auto cs = load<V>(cos + position[n] * half + c), ss = load<V>(sin + position[n] * half + c);
  Pack<T, V> to_a, to_b;
  for (int k = 0; k < V; ++k) {
    const auto a = widen(as.v[k]), b = widen(bs.v[k]), co = widen(cs.v[k]), si = direction * widen(ss.v[k]);
    to_a.v[k] = narrow<T>(a * co - b * si);
    to_b.v[k] = narrow<T>(b * co + a * si);
  }
  store(to + first, to_a);
  store(to + second, to_b);
}

}  // namespace detail

/// A position outside the table is not noticed here.
template <Scalar T>
void rope_turn(Context<Cuda>& ctx,
               View<T> y,             // (N, H, hd)  assigned
               In<T> x,               // (N, H, hd)  any stride of N; the last two axes dense
               In<T> cos,             // (P, R / 2)
               In<T> sin,             // (P, R / 2)
               In<int32_t> position,  // (N)         row of the table for each token
               RopePairing pairing,
               T direction) {  // 1 forward, -1 backward
  constexpr int V = detail::pack_size<T>;
  const int64_t N = x.shape[0], H = x.shape[1], hd = x.shape[2], half = cos.shape[1], stride = x.strides[0];
  const bool packs = pairing == RopePairing::half_split && half % V == 0 && hd % V == 0 && stride % V == 0 &&
                     detail::aligned16(y.data, x.data, cos.data, sin.data);
  launch(packs ? detail::rope_kernel<T, V> : detail::rope_kernel<T, 1>,
         detail::grid_of(detail::ceil_div(N * H * (hd - half) / (packs ? V : 1), detail::block_size)),
         detail::block_size, 0, ctx.stream(), y.data, x.data, cos.data, sin.data, position.data, N, H, hd, half, stride,
         pairing, static_cast<accumulate_t<T>>(direction));
}

}  // namespace ft::inline FTLIB_ABI
