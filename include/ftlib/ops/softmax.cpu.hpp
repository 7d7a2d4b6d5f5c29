// ops/softmax.cpu.hpp: softmax and its logarithm over rows on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/array.cpu.hpp>
#include <ftlib/ops/kinds.hpp>           // SoftmaxResult
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>

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
      const auto xn = detail::array(x.row(n), C);
      auto yn = detail::array(y.row(n), C);
      const T largest = xn.maxCoeff();
      if (result == SoftmaxResult::logarithm) {
        yn = xn - (largest + std::log((xn - largest).exp().sum()));
      } else {
        yn = (xn - largest).exp();
        yn *= 1 / yn.sum();
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
      const auto yn = detail::array(y.row(n), C), dyn = detail::array(dy.row(n), C);
      if (result == SoftmaxResult::logarithm) detail::array(dx.row(n), C) = dyn - yn.exp() * dyn.sum();
      else detail::array(dx.row(n), C) = yn * (dyn - (yn * dyn).sum());
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
