// ops/softmax.cpu.hpp: softmax and its logarithm over rows on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/kinds.hpp>           // SoftmaxResult
#include <ftlib/ops/simd.cpu.hpp>        // for_vectors, exponential
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View, In

#include <cmath>  // std::log

namespace ft::inline FTLIB_ABI {

template <Scalar T>
void softmax_forward(Context<Cpu>& ctx,
                     View<T> y,  // (N, C)
                     In<T> x,    // (N, C)
                     SoftmaxResult result) {
  const int64_t C = x.cols();
  parallel_for(ctx.pool(), x.rows(), 1 + 4096 / C, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* const xn = x.row(n);
      T* const yn = y.row(n);
      const T largest = detail::largest_of(xn, C);
      if (result == SoftmaxResult::logarithm) {
        const T sum = detail::sum_vectors<T>(C, [&](auto at) { return detail::exponential<T>(at(xn) - largest); });
        const T lse = largest + std::log(sum);
        detail::for_vectors<T>(0, C, [&](auto at) { at.store(yn, at(xn) - lse); });
      } else {
        const T factor = 1 / detail::sum_of_exponentials(yn, xn, C, T(1), largest);
        detail::for_vectors<T>(0, C, [&](auto at) { at.store(yn, at(yn) * factor); });
      }
    }
  });
}

template <Scalar T>
void softmax_backward(Context<Cpu>& ctx,
                      View<T> dx,              // (N, C)  assigned
                      In<T> dy,                // (N, C)
                      In<T> y,                 // (N, C)  kept by softmax_forward
                      SoftmaxResult result) {  // what y is
  if (!dx) return;
  const int64_t C = y.cols();
  parallel_for(ctx.pool(), y.rows(), 1 + 4096 / C, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T *const yn = y.row(n), *const dyn = dy.row(n);
      T* const dxn = dx.row(n);
      if (result == SoftmaxResult::logarithm) {
        const T sum = detail::sum_vectors<T>(C, [&](auto at) { return at(dyn); });
        detail::for_vectors<T>(0, C, [&](auto at) { at.store(dxn, at(dyn) - detail::exponential<T>(at(yn)) * sum); });
      } else {
        const T sum = detail::sum_vectors<T>(C, [&](auto at) { return at(yn) * at(dyn); });
        detail::for_vectors<T>(0, C, [&](auto at) { at.store(dxn, at(yn) * (at(dyn) - sum)); });
      }
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
