// ops/embedding.cpu.hpp: the embedding look-up on the CPU, forward and backward.
#pragma once
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/quantised.hpp>    // dequantise_row
#include <ftlib/tensor/stored.hpp>       // Stored

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

template <Scalar T>
void embedding_forward(Context<Cpu>& ctx,
                       View<T> y,                        // (N, C)  assigned
                       const Stored<Cpu>& w,             // (V, C)
                       const std::vector<int32_t>& ids,  // (N)
                       float scale) {
  const int64_t C = y.cols();
  parallel_for(ctx.pool(), y.rows(), 1 + 8192 / C, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      dequantise_row(w.type, w.row(ids[static_cast<std::size_t>(n)]), 0, C, y.row(n));
      if (scale != 1)
        for (int64_t c = 0; c < C; ++c) y.row(n)[c] *= T(scale);
    }
  });
}

template <Scalar T>
void embedding_backward(Context<Cpu>& ctx,
                        View<T> dw,                       // (V, C)  added: a parameter's
                        In<T> dy,                         // (N, C)
                        const std::vector<int32_t>& ids,  // (N)
                        float scale) {
  if (!dw) return;
  const int64_t C = dy.cols();  // each thread owns some columns, so rows that repeat are summed in one order
  parallel_for(ctx.pool(), C, 64, [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < dy.rows(); ++n)
      for (int64_t c = begin; c < end; ++c) dw.row(ids[static_cast<std::size_t>(n)])[c] += T(scale) * dy.row(n)[c];
  });
}

}  // namespace ft::inline FTLIB_ABI
