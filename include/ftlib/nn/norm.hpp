// nn/norm.hpp: NormLayer, RMSNorm or LayerNorm with its weights.
#pragma once
#include <ftlib/nn/adapter.hpp>  // in_use
#include <ftlib/ops/norm.hpp>    // rms_norm, layer_norm, add_rms_norm, add_layer_norm

#include <functional>  // std::function
#include <utility>     // std::pair

namespace ft::inline FTLIB_ABI {

enum class NormKind { rms, layer };

/// y = x / rms(x) (w + offset), or LayerNorm, over the last axis of x.                   arXiv:1910.07467, 1607.06450
template <Scalar T, Device D> struct NormLayer {
  Parameter<T, D> weight = {};  // (C)
  Parameter<T, D> bias = {};    // (C), of a LayerNorm; or empty
  float eps = 1e-6f;
  float offset = 0;  // 1 where the weight is kept about zero (Gemma 1 to 3)
  NormKind kind = NormKind::rms;
  bool bare = false;  // RMSNorm without a weight

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x) {
    if (bare) return rms_norm(ctx, x, eps);
    if (kind == NormKind::rms) return rms_norm(ctx, x, in_use(ctx, weight), eps, offset);
    return layer_norm(ctx, x, used(ctx, weight), used(ctx, bias), eps);
  }
  /// x + y, and the norm of it, in one pass over memory: a residual addition and the norm behind it.
  std::pair<Tensor<T, D>, Tensor<T, D>> after_add(Context<D>& ctx, const Tensor<T, D>& x, const Tensor<T, D>& y) {
    if (kind == NormKind::rms) return add_rms_norm(ctx, x, y, in_use(ctx, weight), eps, offset);
    return add_layer_norm(ctx, x, y, used(ctx, weight), used(ctx, bias), eps);
  }
  explicit operator bool() const { return bare || weight; }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    if (weight) f(weight);
    if (bias) f(bias);
  }

 private:
  static Parameter<T, D>* used(Context<D>& ctx, Parameter<T, D>& w) { return w ? &in_use(ctx, w) : nullptr; }
};

}  // namespace ft::inline FTLIB_ABI
