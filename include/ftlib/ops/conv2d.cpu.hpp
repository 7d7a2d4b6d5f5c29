// ops/conv2d.cpu.hpp: what a convolution's window covers, as rows of a matrix, on the CPU.
#pragma once
#include <ftlib/ops/conv2d.shared.hpp>   // Patches
#include <ftlib/ops/gemm.cpu.hpp>        // gemm
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>  // std::copy_n, std::fill_n

namespace ft::inline FTLIB_ABI {

/// Row n of `columns` = the patch of place first + n.
template <Scalar T>
void gather_patches(Context<Cpu>& ctx,
                    View<T> columns,  // (N, kh kw C)  assigned
                    In<T> x,          // (B, H, W, C)
                    const Patches& at, int64_t first) {
  parallel_for(ctx.pool(), columns.rows(), 1 + 4096 / (at.width() + 1), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t place = first + n, row = place / at.cols, b = row / at.rows;
      T* to = columns.row(n);
      for (int64_t i = 0; i < at.kh; ++i) {
        const int64_t y = at.source(row % at.rows, i, at.top, at.H);
        for (int64_t j = 0; j < at.kw; ++j, to += at.C)
          if (const int64_t c = y < 0 ? -1 : at.source(place % at.cols, j, at.left, at.W); c >= 0)
            std::copy_n(x.data + ((b * at.H + y) * at.W + c) * at.C, at.C, to);
          else std::fill_n(to, at.C, T(0.0f));
      }
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
