// nn/conv.hpp: layers over pictures (B, H, W, C): a convolution with its bias, and a norm over groups of channels.
#pragma once
#include <ftlib/nn/adapter.hpp>      // in_use
#include <ftlib/ops/conv2d.hpp>      // conv2d
#include <ftlib/ops/group_norm.hpp>  // group_norm

#include <functional>  // std::function

namespace ft::inline FTLIB_ABI {

/// Without a weight it stands for a layer that is not there.
template <Scalar T, Device D> struct Conv2d {
  Parameter<T, D> weight = {};  // (out, in, kh, kw)
  Parameter<T, D> bias = {};    // (out), or empty
  ConvWindow window = {};

  explicit operator bool() const { return bool(weight); }
  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x) {
    return conv2d(ctx, x, in_use(ctx, weight), bias ? &in_use(ctx, bias) : nullptr, window);
  }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    if (weight) f(weight);
    if (bias) f(bias);
  }
};

template <Scalar T, Device D> struct GroupNorm {
  Parameter<T, D> weight = {}, bias = {};  // (C) each
  int64_t groups = 1;
  float eps = 1e-6f;

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x) {
    return group_norm(ctx, x, in_use(ctx, weight), in_use(ctx, bias), groups, eps);
  }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    f(weight);
    f(bias);
  }
};

}  // namespace ft::inline FTLIB_ABI
