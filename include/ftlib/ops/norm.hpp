// ops/norm.hpp: RMSNorm and LayerNorm over the last axis: contract, checks, autograd rules.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/norm.cpu.hpp>
#if FTLIB_WITH_CUDA
#include <ftlib/ops/norm.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

namespace detail {
template <Scalar T, Device D> void check_norm(const char* op, const Shape& x, const Parameter<T, D>* w) {
  if (x.rank() < 1 || x.back() < 1) throw Error(str(op, ": x ", x, " has no last axis to normalise"));
  if (!w) return;
  if (w->shape().rank() != 1 || x.back() != w->shape()[0])
    throw Error(str(op, ": x ", x, " does not fit weight ", w->shape(), " '", w->name, "': last axes differ"),
                "the weight is one value for each element of a row.");
  if (!w->value)
    throw Error(str(op, ": weight '", w->name, "' is stored as ", w->stored.type),
                "convert it to the compute type when it is loaded; only matrices stay as they are stored.");
}
}  // namespace detail

/// y = x r (w + offset), r = 1 / sqrt(mean(x^2) + eps), over the last axis: (..., C), (C) -> (..., C).
/// Gemma keeps w about zero and has offset 1. Throws Error where the shapes do not fit.        arXiv:1910.07467
template <Scalar T, Device D>
Tensor<T, D> rms_norm(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& w, float eps, float offset = 0) {
  detail::check_norm("rms_norm", x_.shape(), &w);
  const Tensor<T, D> x = contiguous(ctx, x_);
  Tensor<T, D> y(ctx, x.shape());
  Tensor<accumulate_t<T>, D> r(ctx, {x.rows()});
  rms_norm_forward(ctx, y.view(), r.view(), x.view(), w.value.view(), eps, offset);
  // dx = r (v dy - x r^2 mean(v dy x)) with v = w + offset;  dw += sum over rows of dy x r
  record(ctx, "rms_norm", y, {x, w}, [&w, x, r, offset](Gradients<T, D>& g) {
    rms_norm_backward(g.context(), g.assign(x), g.add(w), g.incoming(), x.view(), w.value.view(), r.view(), offset);
  });
  return y;
}

/// y = (x - mean) r w + b, r = 1 / sqrt(variance + eps), over the last axis: (..., C), (C), (C) -> (..., C). Without w
/// it is not scaled, without b not shifted. Throws Error where the shapes do not fit.          arXiv:1607.06450
template <Scalar T, Device D>
Tensor<T, D> layer_norm(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>* w, Parameter<T, D>* b, float eps) {
  detail::check_norm("layer_norm", x_.shape(), w);
  detail::check_norm("layer_norm", x_.shape(), b);
  const Tensor<T, D> x = contiguous(ctx, x_);
  const auto values = [](const Parameter<T, D>* p) { return p ? p->value.view() : View<const T>{}; };
  Tensor<T, D> y(ctx, x.shape());
  Tensor<accumulate_t<T>, D> mean(ctx, {x.rows()}), r(ctx, {x.rows()});
  layer_norm_forward(ctx, y.view(), mean.view(), r.view(), x.view(), values(w), values(b), eps);
  // With g = w dy and n = (x - mean) r: dx = r (g - mean(g) - n mean(g n));  dw += sum of dy n;  db += sum of dy
  record(ctx, "layer_norm", y, {x, w, b}, [w, b, x, mean, r, values](Gradients<T, D>& g) {
    const View<T> dx = g.assign(x);
    const View<accumulate_t<T>> dw = g.add(w);
    layer_norm_backward(g.context(), dx, dw, g.add(b), g.incoming(), x.view(), values(w), mean.view(), r.view());
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
