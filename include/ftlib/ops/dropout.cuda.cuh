// ops/dropout.cuda.cuh: dropout on the GPU. Forward and backward are one kernel, which draws the mask each time.
#pragma once
#include <ftlib/core/random.hpp>       // philox
#include <ftlib/cuda/pack.cuda.cuh>  // load, store
#include <ftlib/tensor/view.hpp>       // View

namespace ft::inline FTLIB_ABI {

namespace detail {

// Four elements a thread, one counter's words: the CPU's numbers. Loads of 16 bytes (float; half of that for 16 bits),
// or V = 1 where a pointer is not aligned. Moves 2 arrays once, for 10 rounds of Philox a thread.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    dropout_kernel(T* y, const T* x, int64_t count, float p, uint64_t seed, uint64_t first) {
  using A = accumulate_t<T>;
  const int64_t b = blockIdx.x * int64_t{block_size} + threadIdx.x, i = 4 * b;
  if (i >= count) return;
  const auto words = philox(seed, first + static_cast<uint64_t>(b), 1);
  const A keep = 1 / (1 - static_cast<A>(p));
  for (int64_t at = i; at < i + 4; at += V) {
    if (at + V > count) {
      for (int64_t k = at; k < count; ++k)
        y[k] = narrow<T>(to_unit(words[static_cast<std::size_t>(k - i)]) < p ? A(0) : keep * widen(x[k]));
      return;
    }
    const auto xs = load<V>(x + at);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k)
      out.v[k] = narrow<T>(to_unit(words[static_cast<std::size_t>(at - i + k)]) < p ? A(0) : keep * widen(xs.v[k]));
    store(y + at, out);
  }
}

}  // namespace detail

/// y = x / (1 - p) where a number in [0, 1) is at least p, else 0. Element i has word i % 4 of
/// philox(seed, first + i / 4, 1).
template <Scalar T>
void dropout_mask(Context<Cuda>& ctx,
                  View<T> y,  // (...)  assigned
                  In<T> x,    // (...)
                  float p, uint64_t seed, uint64_t first) {
  constexpr int V = detail::pack_size<T> < 4 ? detail::pack_size<T> : 4;
  launch(detail::aligned16(y.data, x.data) ? detail::dropout_kernel<T, V> : detail::dropout_kernel<T, 1>,
         detail::grid_of(detail::ceil_div(x.count(), 4 * detail::block_size)), detail::block_size, 0, ctx.stream(),
         y.data, x.data, x.count(), p, seed, first);
}

}  // namespace ft::inline FTLIB_ABI
