// nn/mlp.hpp: Mlp, the feed-forward part of a block, gated or not.
#pragma once
#include <ftlib/nn/linear.hpp>       // Linear
#include <ftlib/ops/activation.hpp>  // silu, gelu, swiglu, geglu

#include <functional>  // std::function

namespace ft::inline FTLIB_ABI {

enum class Activation { silu, gelu, gelu_tanh, relu };

/// y = down(f(gate(x)) up(x)), or without a gate down(f(up(x))): (N, C) -> (N, C).                  arXiv:2002.05202
template <Scalar T, Device D> struct Mlp {
  Linear<T, D> gate_proj = {};                // (F, C), or empty: no gate
  Linear<T, D> up_proj = {}, down_proj = {};  // (F, C), (C, F)
  Activation activation = Activation::silu;

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x) {
    if (!gate_proj.weight) return down_proj(ctx, activate(ctx, up_proj(ctx, x)));
    const auto up = up_proj(ctx, x), gate = gate_proj(ctx, x);
    switch (activation) {
      case Activation::silu:
        return down_proj(ctx, swiglu(ctx, gate, up));
      case Activation::gelu:
        return down_proj(ctx, geglu(ctx, gate, up));
      case Activation::gelu_tanh:
        return down_proj(ctx, geglu_tanh(ctx, gate, up));
      case Activation::relu:
        break;
    }
    throw Error("mlp: relu with a gate is not computed", "silu, gelu and gelu_tanh are.");
  }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    if (gate_proj.weight) gate_proj.visit(f);
    up_proj.visit(f);
    down_proj.visit(f);
  }

 private:
  Tensor<T, D> activate(Context<D>& ctx, const Tensor<T, D>& x) const {
    switch (activation) {
      case Activation::silu:
        return silu(ctx, x);
      case Activation::gelu:
        return gelu(ctx, x);
      case Activation::gelu_tanh:
        return gelu_tanh(ctx, x);
      case Activation::relu:
        break;
    }
    return relu(ctx, x);
  }
};

}  // namespace ft::inline FTLIB_ABI
