// tensor/stored.cpu.hpp: a whole stored weight into the compute type, on the CPU.
#pragma once
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/quantised.hpp>    // dequantise_row
#include <ftlib/tensor/stored.hpp>       // Stored

namespace ft::inline FTLIB_ABI {

/// to = the values of w, of the same count.
template <Scalar T> void dequantise(Context<Cpu>& ctx, View<T> to, const Stored<Cpu>& w) {
  parallel_for(ctx.pool(), w.shape.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      dequantise_row(w.type, w.row(n), 0, w.shape.back(), to.data + n * w.shape.back());
  });
}

}  // namespace ft::inline FTLIB_ABI
