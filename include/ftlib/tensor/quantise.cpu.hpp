// tensor/quantise.cpu.hpp: a whole matrix into quantised blocks, on the CPU's threads.
#pragma once
#include <ftlib/tensor/context.cpu.hpp>   // Context<Cpu>
#include <ftlib/tensor/quantise.inl.hpp>  // quantise_row
#include <ftlib/tensor/view.hpp>          // View

namespace ft::inline FTLIB_ABI {

/// to = the rows of x (rows, cols) as `type`, one behind the other, as quantise_row makes them; `importance` (cols) or
/// null.
template <Scalar T>
void quantise(Context<Cpu>& ctx, std::byte* to, DType type, View<const T> x, const float* importance) {
  const int64_t cols = x.shape.back(), row_bytes = storage_bytes(type, cols);
  parallel_for(ctx.pool(), x.shape.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) quantise_row(type, x.data + n * cols, cols, to + n * row_bytes, importance);
  });
}

}  // namespace ft::inline FTLIB_ABI
