// ops/causal_conv.cpu.hpp: the short causal convolution on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/simd.cpu.hpp>        // for_vectors
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>  // std::fill_n, std::min
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// y[n] = sum over t < reach[n] of taps[L - 1 - t] x[row[n] + direction t].
template <Scalar T>
void causal_conv_apply(Context<Cpu>& ctx,
                       View<T> y,                          // (N, C)  assigned
                       In<T> x,                            // (K, C)
                       In<T> taps,                         // (L, C)
                       const std::vector<int32_t>& row,    // (N)
                       const std::vector<int32_t>& reach,  // (N)
                       int64_t direction) {                // -1 forward, 1 backward
  const int64_t C = y.cols(), L = taps.rows();
  parallel_for(ctx.pool(), y.rows(), 1 + 4096 / (C * L + 1), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = row[static_cast<std::size_t>(n)], many = reach[static_cast<std::size_t>(n)];
      std::fill_n(y.row(n), C, T(0.0f));
      for (int64_t t = 0; t < many; ++t) {
        const T *const from = x.row(first + direction * t), *const tap = taps.row(L - 1 - t);
        detail::for_vectors<T>(0, C, [&](auto at) { at.store(y.row(n), at(y.row(n)) + at(tap) * at(from)); });
      }
    }
  });
}

/// dtaps[L - 1 - t] = sum over n with t < reach[n] of dy[n] x[n - t].
template <Scalar T>
void causal_conv_weights(Context<Cpu>& ctx,
                         View<T> dtaps,                        // (L, C)  assigned
                         In<T> dy,                             // (N, C)
                         In<T> x,                              // (N, C)
                         const std::vector<int32_t>& reach) {  // (N)
  constexpr int64_t columns = 64;  // a task's; all rows of them, so that sums do not depend on the number of threads
  const int64_t C = dy.cols(), L = dtaps.rows();
  parallel_for(ctx.pool(), (C + columns - 1) / columns, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * columns, last = std::min(C, end * columns);
    for (int64_t l = 0; l < L; ++l) std::fill(dtaps.row(l) + first, dtaps.row(l) + last, T(0.0f));
    for (int64_t n = 0; n < dy.rows(); ++n)
      for (int64_t t = 0; t < reach[static_cast<std::size_t>(n)]; ++t) {
        T* const to = dtaps.row(L - 1 - t);
        const T *const from = x.row(n - t), *const dys = dy.row(n);
        detail::for_vectors<T>(first, last, [&](auto at) { at.store(to, at(to) + at(dys) * at(from)); });
      }
  });
}

}  // namespace ft::inline FTLIB_ABI
