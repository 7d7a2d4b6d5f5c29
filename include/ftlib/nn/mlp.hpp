// nn/mlp.hpp: Mlp, the feed-forward part of a block, gated or not.
#pragma once
#include <ftlib/nn/linear.hpp>       // Linear
#include <ftlib/ops/activation.hpp>  // silu, gelu, swiglu, geglu
#include <ftlib/ops/shape.hpp>       // slice

#include <functional>  // std::function

namespace ft::inline FTLIB_ABI {

enum class Activation { silu, gelu, gelu_tanh, relu, limited_silu };

/// f(gate) up of equal shapes; limited_silu is limited_swiglu. Throws Error for relu, which has no such form.
template <Scalar T, Device D>
Tensor<T, D> gated(Context<D>& ctx, Activation f, const Tensor<T, D>& gate, const Tensor<T, D>& up) {
  switch (f) {
    case Activation::silu:
      return swiglu(ctx, gate, up);
    case Activation::gelu:
      return geglu(ctx, gate, up);
    case Activation::gelu_tanh:
      return geglu_tanh(ctx, gate, up);
    case Activation::limited_silu:
      return limited_swiglu(ctx, gate, up);
    case Activation::relu:
      break;
  }
  throw Error("mlp: relu with a gate is not computed", "silu, gelu and gelu_tanh are.");
}

/// y = down(f(gate(x)) up(x)), or without a gate down(f(up(x))): (N, C) -> (N, C).                  arXiv:2002.05202
template <Scalar T, Device D> struct Mlp {
  Linear<T, D> gate_proj = {};                // (F, C), or empty: no gate
  Linear<T, D> up_proj = {}, down_proj = {};  // (F, C), (C, F)
  Linear<T, D> gate_up_proj = {};             // (2 F, C), in place of gate and up
  Activation activation = Activation::silu;

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x) {
    Tensor<T, D> up, gate;
    if (gate_up_proj.weight) {
      const auto both = gate_up_proj(ctx, x);
      const int64_t F = both.cols() / 2;
      gate = slice(ctx, both, 1, 0, F);
      up = slice(ctx, both, 1, F, 2 * F);
    } else {
      up = up_proj(ctx, x);
      if (!gate_proj.weight) return down_proj(ctx, activate(ctx, up));
      gate = gate_proj(ctx, x);
    }
    return down_proj(ctx, gated(ctx, activation, gate, up));
  }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    for (Linear<T, D>* l : {&gate_proj, &up_proj, &gate_up_proj, &down_proj}) l->visit(f);
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
        return relu(ctx, x);
      case Activation::limited_silu:
        break;
    }
    throw Error("mlp: limited_silu needs a gate");
  }
};

}  // namespace ft::inline FTLIB_ABI
