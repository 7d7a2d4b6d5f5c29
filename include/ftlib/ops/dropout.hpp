// ops/dropout.hpp: inverted dropout, whose mask is drawn again in backward instead of kept.
#pragma once
#include <ftlib/autograd/tape.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/dropout.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/dropout.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

/// Each element becomes 0 with probability p, else x / (1 - p); any shape. Draws from ctx.random(); p = 0 gives x and
/// draws nothing. When to call it (in training) is the caller's matter. Throws Error for p outside [0, 1).
/// Srivastava et al., JMLR 15 (2014).
template <Scalar T, Device D> Tensor<T, D> dropout(Context<D>& ctx, const Tensor<T, D>& x, float p) {
  if (!(p >= 0 && p < 1)) throw Error(str("dropout: a probability of ", p, " is outside [0, 1)"));
  if (p == 0) return x;
  const uint64_t seed = ctx.random().seed();
  const uint64_t first = ctx.random().reserve((static_cast<uint64_t>(x.count()) + 3) / 4);
  Tensor<T, D> y(ctx, x.shape());
  dropout_mask(ctx, y.view(), contiguous(ctx, x).view(), p, seed, first);
  record(ctx, "dropout", y, {x}, [x = TensorId<T>(x), p, seed, first](Gradients<T, D>& g) {  // dx = dy mask / (1 - p)
    if (const View<T> dx = g.assign(x)) dropout_mask(g.context(), dx, g.incoming(), p, seed, first);
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
