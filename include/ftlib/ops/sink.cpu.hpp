// ops/sink.cpu.hpp: attention sinks on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/simd.cpu.hpp>        // for_vectors, sum_vectors
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>, parallel_for
#include <ftlib/tensor/view.hpp>         // View, In

#include <algorithm>  // std::max
#include <cmath>      // std::exp, std::log

namespace ft::inline FTLIB_ABI {

/// Brings a sink into the denominator of a softmax that was computed without: with l = log(e^lse + e^sink),
/// y <- y e^(lse - l) and lse <- l.
template <Scalar T>
void sink_forward(Context<Cpu>& ctx,
                  View<T> y,      // (N, H, hd)  changed
                  View<T> lse,    // (H, N)      changed
                  In<T> sinks) {  // (H)
  const int64_t N = y.shape[0], H = y.shape[1], hd = y.shape[2];
  parallel_for(ctx.pool(), N, 1 + 4096 / (H * hd + 1), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t h = 0; h < H; ++h) {
        T& sum = lse.data[h * N + n];
        const T sink = sinks.data[h], largest = std::max(sum, sink);
        const T total = largest + std::log(std::exp(sum - largest) + std::exp(sink - largest));
        const T share = std::exp(sum - total);
        T* const row = y.data + (n * H + h) * hd;
        detail::for_vectors<T>(0, hd, [&](auto at) { at.store(row, share * at(row)); });
        sum = total;
      }
  });
}

/// dsink -= sum over tokens of e^(sink - lse) dy y, with y and lse as sink_forward left them.
template <Scalar T>
void sink_backward(Context<Cpu>& ctx,
                   View<T> dsinks,  // (H)         added
                   In<T> dy,        // (N, H, hd)  any stride of N
                   In<T> y,         // (N, H, hd)
                   In<T> lse,       // (H, N)
                   In<T> sinks) {   // (H)
  const int64_t N = y.shape[0], H = y.shape[1], hd = y.shape[2];
  parallel_for(ctx.pool(), H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      T sum = 0;
      for (int64_t n = 0; n < N; ++n) {
        const T *const dyr = dy.data + n * dy.strides[0] + h * hd, *const yr = y.data + (n * H + h) * hd;
        sum += std::exp(sinks.data[h] - lse.data[h * N + n]) *
               detail::sum_vectors<T>(hd, [&](auto at) { return at(dyr) * at(yr); });
      }
      dsinks.data[h] -= sum;
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
