// ops/norm.hpp: RMSNorm and LayerNorm over the last axis, by themselves, behind a residual addition or before a
// modulation: contract, checks, autograd rules.
#pragma once
#include <ftlib/ops/elementwise.hpp>  // check_same, row_groups
#include <ftlib/ops/norm.shared.hpp>  // Norm
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/norm.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/norm.cuda.cuh>
#endif

#include <utility>  // std::pair
#include <vector>   // std::vector

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

/// A norm as an op is asked for it; its rule keeps this.
template <Scalar T, Device D> struct NormArguments {
  const char* op;
  bool centred;
  float eps, offset = 0;
  Parameter<T, D>*w = nullptr, *b = nullptr;
  Tensor<T, D> scale{}, shift{};
  std::vector<int64_t> starts{};

  Norm<T> norm() const {
    const auto values = [](const Parameter<T, D>* p) { return p ? p->value.view() : View<const T>{}; };
    return {centred, eps, offset, values(w), values(b), scale.view(), shift.view(), starts};
  }
};

/// s = x + y, or x where y is null, and h, the norm of s: every op of this file.
template <Scalar T, Device D>
std::pair<Tensor<T, D>, Tensor<T, D>> normalise(Context<D>& ctx, NormArguments<T, D> of, const Tensor<T, D>& x_,
                                                const Tensor<T, D>* y_ = nullptr) {
  check_norm(of.op, x_.shape(), of.w);
  check_norm(of.op, x_.shape(), of.b);
  if (y_) check_same(of.op, x_.shape(), y_->shape());
  const Tensor<T, D> x = contiguous(ctx, x_), y = y_ ? contiguous(ctx, *y_) : Tensor<T, D>{};
  if (!of.scale) of.starts = {0, x.rows()};
  Tensor<T, D> h(ctx, x.shape()), s = y_ ? Tensor<T, D>(ctx, x.shape()) : x;
  Tensor<accumulate_t<T>, D> r(ctx, {x.rows()}), mean;
  if (of.centred) mean = Tensor<accumulate_t<T>, D>(ctx, {x.rows()});
  norm_forward(ctx, of.norm(), h.view(), y_ ? s.view() : View<T>{}, mean.view(), r.view(), x.view(), y.view());

  if (!recording(ctx, of.op, {x, y, of.w, of.b, of.scale, of.shift})) return {s, h};
  // With g = dh (1 + scale) (w + offset): dx = dy = ds + r (g - mean(g) - z mean(g z)), where RMSNorm has no mean(g).
  // With p = sum of dh z and q = sum of dh over a group's rows: dscale = p (w + offset) + q b, dshift = q; and summed
  // over groups dw += (1 + scale) p, db += (1 + scale) q.
  const TensorId<T> shift = of.shift;
  of.shift = {};
  const auto rule = [of, x = TensorId<T>(x), y = TensorId<T>(y), shift, s, mean, r,
                     added = y_ != nullptr](Gradients<T, D>& g) {
    const int result = added ? 1 : 0;
    if (!g.came(result)) {  // s alone was used
      g.give(x, g.incoming_tensor(0));
      g.give(y, g.incoming_tensor(0));
      return;
    }
    Tensor<T, D> dx;
    if (g.wants(x) || g.wants(y)) dx = Tensor<T, D>(g.context(), s.shape());
    g.give(x, dx);  // shared, not copied
    g.give(y, dx);
    const View<accumulate_t<T>> dw = g.add(of.w), db = g.add(of.b);
    const View<T> dscale = g.assign(of.scale), dshift = g.assign(shift);
    norm_backward(g.context(), of.norm(), dx.view(), dw, db, dscale, dshift, g.incoming(result),
                  added && g.came(0) ? g.incoming(0) : View<const T>{}, s.view(), mean.view(), r.view());
  };
  if (y_) ctx.tape()->push({&s, &h}, rule);
  else ctx.tape()->push({&h}, rule);
  return {s, h};
}
/// The norm of x, modulated: rows of scale and shift by groups of rows.
template <Scalar T, Device D>
Tensor<T, D> normalise_modulated(Context<D>& ctx, NormArguments<T, D> of, const Tensor<T, D>& x,
                                 const Tensor<T, D>& scale, const Tensor<T, D>& shift,
                                 const std::vector<int64_t>& starts) {
  check_same(of.op, scale.shape(), shift.shape());
  of.starts = row_groups(of.op, x.shape(), scale.shape(), starts);
  of.scale = contiguous(ctx, scale);
  of.shift = contiguous(ctx, shift);
  return normalise(ctx, std::move(of), x).second;
}
}  // namespace detail

/// y = x r (w + offset), r = 1 / sqrt(mean(x^2) + eps), over the last axis: (..., C), (C) -> (..., C).
/// Gemma keeps w about zero and has offset 1. Throws Error where the shapes do not fit.        arXiv:1910.07467
template <Scalar T, Device D>
Tensor<T, D> rms_norm(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, float eps, float offset = 0) {
  return detail::normalise<T, D>(ctx, {"rms_norm", false, eps, offset, &w}, x).second;
}
/// The same without a weight: y = x r.
template <Scalar T, Device D> Tensor<T, D> rms_norm(Context<D>& ctx, const Tensor<T, D>& x, float eps) {
  return detail::normalise<T, D>(ctx, {"rms_norm", false, eps}, x).second;
}

/// y = (x - mean) r w + b, r = 1 / sqrt(variance + eps), over the last axis: (..., C), (C), (C) -> (..., C). Without w
/// it is not scaled, without b not shifted. Throws Error where the shapes do not fit.          arXiv:1607.06450
template <Scalar T, Device D>
Tensor<T, D> layer_norm(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>* w, Parameter<T, D>* b, float eps) {
  return detail::normalise<T, D>(ctx, {"layer_norm", true, eps, 0, w, b}, x).second;
}

/// s = x + y and rms_norm(s), in one pass over memory: a residual addition and the norm behind it. (..., C), (..., C),
/// (C) -> (..., C) twice. In 16 bits the norm is of s as it is returned. Throws Error where the shapes do not fit.
template <Scalar T, Device D>
std::pair<Tensor<T, D>, Tensor<T, D>> add_rms_norm(Context<D>& ctx, const Tensor<T, D>& x, const Tensor<T, D>& y,
                                                   Parameter<T, D>& w, float eps, float offset = 0) {
  return detail::normalise<T, D>(ctx, {"add_rms_norm", false, eps, offset, &w}, x, &y);
}

/// s = x + y and layer_norm(s), likewise: (..., C), (..., C), (C), (C) -> (..., C) twice.
template <Scalar T, Device D>
std::pair<Tensor<T, D>, Tensor<T, D>> add_layer_norm(Context<D>& ctx, const Tensor<T, D>& x, const Tensor<T, D>& y,
                                                     Parameter<T, D>* w, Parameter<T, D>* b, float eps) {
  return detail::normalise<T, D>(ctx, {"add_layer_norm", true, eps, 0, w, b}, x, &y);
}

/// rms_norm(x) (1 + scale) + shift, with one row of scale and shift for each group of rows, as modulate has them:
/// (N, C), (C), (B, C), (B, C) -> (N, C). Throws Error where the shapes do not fit.      adaLN: arXiv:2212.09748
template <Scalar T, Device D>
Tensor<T, D> rms_norm_modulate(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, const Tensor<T, D>& scale,
                               const Tensor<T, D>& shift, float eps, const std::vector<int64_t>& starts = {}) {
  return detail::normalise_modulated<T, D>(ctx, {"rms_norm_modulate", false, eps, 0, &w}, x, scale, shift, starts);
}

/// layer_norm(x) (1 + scale) + shift, likewise: (N, C), (C), (C), (B, C), (B, C) -> (N, C).
template <Scalar T, Device D>
Tensor<T, D> layer_norm_modulate(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>* w, Parameter<T, D>* b,
                                 const Tensor<T, D>& scale, const Tensor<T, D>& shift, float eps,
                                 const std::vector<int64_t>& starts = {}) {
  return detail::normalise_modulated<T, D>(ctx, {"layer_norm_modulate", true, eps, 0, w, b}, x, scale, shift, starts);
}

}  // namespace ft::inline FTLIB_ABI
