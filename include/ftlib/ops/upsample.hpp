// ops/upsample.hpp: larger pictures by repeating places: contract, checks, autograd rule.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/tensor/copy.hpp>  // copy, accumulate

namespace ft::inline FTLIB_ABI {

/// y[b, h, v] = x[b, h / factor, v / factor]: (B, H, W, C) -> (B, factor H, factor W, C), by strided copies. Throws
/// Error where x is no picture or the factor below 1.
template <Scalar T, Device D> Tensor<T, D> upsample_nearest(Context<D>& ctx, const Tensor<T, D>& x, int64_t factor) {
  if (x.rank() != 4 || factor < 1)
    throw Error(str("upsample_nearest: x ", x.shape(), " by ", factor),
                "x is (pictures, height, width, channels), the factor 1 or more.");
  const int64_t B = x.size(0), H = x.size(1), W = x.size(2), C = x.size(3);
  const Shape parts{B, H, factor, W, factor, C}, from = x.strides();
  Tensor<T, D> y(ctx, {B, factor * H, factor * W, C});
  copy(ctx, View<T>(y.data(), parts), View<const T>(x.data(), parts, {from[0], from[1], 0, from[2], 0, from[3]}));
  // dx = sum over a place's copies of dy
  record(ctx, "upsample_nearest", y, {x}, [id = TensorId<T>(x), factor, parts](Gradients<T, D>& g) {
    const View<T> dx = g.assign(id);
    if (!dx) return;
    const View<const T> dy = g.incoming();
    const Shape s = parts.strides();
    for (int64_t i = 0; i < factor * factor; ++i) {
      const View<const T> share(dy.data + i / factor * s[2] + i % factor * s[4], dx.shape, {s[0], s[1], s[3], s[5]});
      if (i == 0) copy(g.context(), dx, share);
      else accumulate(g.context(), dx, share);
    }
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
