// ops/linear.cpu.hpp: what linear needs on the CPU beside the matrix product (gemm.cpu.hpp).
#pragma once
#include <ftlib/ops/gemm.cpu.hpp>     // gemm
#include <ftlib/tensor/copy.cpu.hpp>  // copy, accumulate
#include <ftlib/tensor/tensor.hpp>    // Tensor

namespace ft::inline FTLIB_ABI {

/// sums += the sum over rows of x: a bias's gradient.
template <Scalar T>
void add_column_sums(Context<Cpu>& ctx,
                     View<T> sums,  // (C)     added: a parameter's
                     In<T> x) {     // (N, C)
  const int64_t C = x.cols();
  parallel_for(ctx.pool(), C, 64, [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < x.rows(); ++n)
      for (int64_t c = begin; c < end; ++c) sums.data[c] += x.row(n)[c];
  });
}

/// da = or += du^T x, for R much below C: computed as (x^T du)^T, because a product with few columns needs no packing.
template <Scalar T>
void flat_outer(Context<Cpu>& ctx, Write write,
                View<T> da,  // (R, C)
                In<T> du,    // (N, R)
                In<T> x) {   // (N, C)
  const int64_t R = du.cols(), C = x.cols();
  Tensor<T, Cpu> turned(ctx, {C, R});
  gemm(ctx, Write::assign, C, R, x.rows(), turned.data(), R, DenseOperand<T>{x.data, 1, C},
       DenseOperand<T>{du.data, R, 1});
  const View<const T> values(turned.data(), {R, C}, {1, R});
  if (write == Write::assign) copy(ctx, da, values);
  else accumulate(ctx, da, values);
}

}  // namespace ft::inline FTLIB_ABI
