// ops/linear.cpu.hpp: what linear needs on the CPU beside the matrix product (gemm.cpu.hpp).
#pragma once
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

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

}  // namespace ft::inline FTLIB_ABI
