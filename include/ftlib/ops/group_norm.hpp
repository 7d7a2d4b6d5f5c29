// ops/group_norm.hpp: a norm over the places of a picture and a group of its channels: contract, checks, autograd rule.
#pragma once
#include <ftlib/autograd/tape.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/group_norm.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/group_norm.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

/// y = (x - mean) r w + b, r = 1 / sqrt(variance + eps), mean and variance of each sample over all of its places and
/// the C / G channels that follow one another in a group: (B, ..., C), (C), (C) -> (B, ..., C). Throws Error where
/// shapes do not fit.                                                                      arXiv:1803.08494
template <Scalar T, Device D>
Tensor<T, D> group_norm(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& w, Parameter<T, D>& b, int64_t groups,
                        float eps) {
  if (x_.rank() < 2 || x_.count() == 0 || groups < 1 || x_.shape().back() % groups != 0)
    throw Error(str("group_norm: x ", x_.shape(), " in ", groups, " groups"),
                "x is (samples, ..., channels), and the channels are a multiple of the groups.");
  for (const Parameter<T, D>* p : {&w, &b})
    if (!p->value || p->shape() != Shape{x_.shape().back()})
      throw Error(str("group_norm: x ", x_.shape(), " does not fit '", p->name, "' ", p->shape()),
                  "it is one value for each channel, in the compute type.");
  const Tensor<T, D> x = contiguous(ctx, x_);
  const int64_t B = x.size(0), C = x.shape().back();
  const Shape flat{B, x.count() / (B * C), C};
  Tensor<T, D> y(ctx, x.shape());
  Tensor<accumulate_t<T>, D> mean(ctx, {B, groups}), r(ctx, {B, groups});
  group_norm_forward(ctx, View<T>(y.data(), flat), mean.view(), r.view(), View<const T>(x.data(), flat), w.value.view(),
                     b.value.view(), eps);
  // With z = (x - mean) r and g = dy w: dx = r (g - mean(g) - z mean(g z)), means over the group;
  // dw += sum of dy z, db += sum of dy
  record(ctx, "group_norm", y, {x, w, b}, [x, &w, &b, mean, r, flat](Gradients<T, D>& g) {
    const View<T> dx = g.assign(x);
    const View<accumulate_t<T>> dw = g.add(w), db = g.add(b);
    group_norm_backward(g.context(), View<T>(dx.data, flat), dw, db, View<const T>(g.incoming().data, flat),
                        View<const T>(x.data(), flat), mean.view(), r.view(), w.value.view());
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
