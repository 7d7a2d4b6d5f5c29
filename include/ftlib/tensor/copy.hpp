// tensor/copy.hpp: fill, copy, conversion and accumulation on any device; not recorded by the tape.
#pragma once
#include <ftlib/tensor/tensor.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/tensor/copy.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/tensor/copy.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

/// x itself where it is row-major without gaps, else a copy that is. Keeps x's place on the tape: a gradient for the
/// result is a gradient for x, because gradients are always contiguous.
template <Element T, Device D> Tensor<T, D> contiguous(Context<D>& ctx, const Tensor<T, D>& x) {
  if (x.contiguous()) return x;
  Tensor<T, D> y(ctx, x.shape());
  copy(ctx, y.view(), x.view());
  y.set_node(x.node());
  return y;
}

/// A copy with memory of its own, unknown to any tape.
template <Element T, Device D> Tensor<T, D> clone(Context<D>& ctx, const Tensor<T, D>& x) {
  Tensor<T, D> y(ctx, x.shape());
  copy(ctx, y.view(), x.view());
  return y;
}

/// A copy in another type, unknown to any tape.
template <Element To, Element From, Device D> Tensor<To, D> convert(Context<D>& ctx, const Tensor<From, D>& x) {
  Tensor<To, D> y(ctx, x.shape());
  copy(ctx, y.view(), x.view());
  return y;
}

}  // namespace ft::inline FTLIB_ABI
