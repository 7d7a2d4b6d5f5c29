// ops/norm.hpp: RMSNorm over the last axis: contract, checks, autograd rule.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/norm.cpu.hpp>

namespace ft::inline FTLIB_ABI {

/// y = x r (w + offset), r = 1 / sqrt(mean(x^2) + eps), over the last axis: (..., C), (C) -> (..., C).
/// Gemma keeps w about zero and has offset 1. Throws Error where the shapes do not fit.        arXiv:1910.07467
template <Scalar T, Device D>
Tensor<T, D> rms_norm(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& w, float eps, float offset = 0) {
  detail::check_norm("rms_norm", x_.shape(), w.shape());
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

}  // namespace ft::inline FTLIB_ABI
