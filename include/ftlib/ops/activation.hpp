// ops/activation.hpp: SiLU, GELU (exact and tanh), ReLU and the gated forms f(gate) * up: contract, checks, autograd
// rules.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/kinds.hpp>  // Silu, Gelu, ...
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/activation.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/activation.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

namespace detail {
template <class F, Scalar T, Device D>
Tensor<T, D> activation(Context<D>& ctx, const char* op, F f, const Tensor<T, D>& x_) {
  const Tensor<T, D> x = contiguous(ctx, x_);
  Tensor<T, D> y(ctx, x.shape());
  activation_forward(ctx, f, y.view(), x.view());
  record(ctx, op, y, {x}, [f, x](Gradients<T, D>& g) {  // dx = dy f'(x)
    activation_backward(g.context(), f, g.assign(x), g.incoming(), x.view());
  });
  return y;
}
template <class F, Scalar T, Device D>
Tensor<T, D> gated(Context<D>& ctx, const char* op, F f, const Tensor<T, D>& gate_, const Tensor<T, D>& up_) {
  if (gate_.shape() != up_.shape())
    throw Error(str(op, ": gate ", gate_.shape(), " and up ", up_.shape(), " differ"),
                "both are results of projections of the same width.");
  const Tensor<T, D> gate = contiguous(ctx, gate_), up = contiguous(ctx, up_);
  Tensor<T, D> y(ctx, gate.shape());
  gated_forward(ctx, f, y.view(), gate.view(), up.view());
  // dgate = dy up f'(gate);  dup = dy f(gate), computed again from the gate instead of kept
  record(ctx, op, y, {gate, up}, [f, gate, up](Gradients<T, D>& g) {
    const View<T> dgate = g.assign(gate);
    gated_backward(g.context(), f, dgate, g.assign(up), g.incoming(), gate.view(), up.view());
  });
  return y;
}
}  // namespace detail

/// y = x / (1 + e^-x), any shape.                                                                 arXiv:1606.08415
template <Scalar T, Device D> Tensor<T, D> silu(Context<D>& ctx, const Tensor<T, D>& x) {
  return detail::activation(ctx, "silu", detail::Silu{}, x);
}
/// y = x Phi(x), the exact form by the error function, any shape.                                 arXiv:1606.08415
template <Scalar T, Device D> Tensor<T, D> gelu(Context<D>& ctx, const Tensor<T, D>& x) {
  return detail::activation(ctx, "gelu", detail::Gelu{}, x);
}
/// y = 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), any shape ("gelu_pytorch_tanh").        arXiv:1606.08415
template <Scalar T, Device D> Tensor<T, D> gelu_tanh(Context<D>& ctx, const Tensor<T, D>& x) {
  return detail::activation(ctx, "gelu_tanh", detail::GeluTanh{}, x);
}
/// y = max(x, 0), any shape; the gradient at 0 is 0.
template <Scalar T, Device D> Tensor<T, D> relu(Context<D>& ctx, const Tensor<T, D>& x) {
  return detail::activation(ctx, "relu", detail::Relu{}, x);
}
/// y = tanh(x), any shape.
template <Scalar T, Device D> Tensor<T, D> tanh(Context<D>& ctx, const Tensor<T, D>& x) {
  return detail::activation(ctx, "tanh", detail::Tanh{}, x);
}

/// y = up / (1 + e^-gate), any equal shapes; throws Error where they differ.                     arXiv:1612.08083
template <Scalar T, Device D> Tensor<T, D> glu(Context<D>& ctx, const Tensor<T, D>& gate, const Tensor<T, D>& up) {
  return detail::gated(ctx, "glu", detail::Sigmoid{}, gate, up);
}
/// y = silu(gate) up, any equal shapes; throws Error where they differ.                           arXiv:2002.05202
template <Scalar T, Device D> Tensor<T, D> swiglu(Context<D>& ctx, const Tensor<T, D>& gate, const Tensor<T, D>& up) {
  return detail::gated(ctx, "swiglu", detail::Silu{}, gate, up);
}
/// y = gelu(gate) up, any equal shapes; throws Error where they differ.                           arXiv:2002.05202
template <Scalar T, Device D> Tensor<T, D> geglu(Context<D>& ctx, const Tensor<T, D>& gate, const Tensor<T, D>& up) {
  return detail::gated(ctx, "geglu", detail::Gelu{}, gate, up);
}
/// y = gelu_tanh(gate) up, any equal shapes; throws Error where they differ.                      arXiv:2002.05202
template <Scalar T, Device D>
Tensor<T, D> geglu_tanh(Context<D>& ctx, const Tensor<T, D>& gate, const Tensor<T, D>& up) {
  return detail::gated(ctx, "geglu_tanh", detail::GeluTanh{}, gate, up);
}
/// y = g / (1 + e^(-1.702 g)) (u + 1), g = min(gate, 7), u = min(max(up, -7), 7), any equal shapes; throws Error where
/// they differ. gpt-oss' form: arXiv:2508.10925
template <Scalar T, Device D>
Tensor<T, D> limited_swiglu(Context<D>& ctx, const Tensor<T, D>& gate, const Tensor<T, D>& up) {
  return detail::gated(ctx, "limited_swiglu", detail::LimitedSilu{}, gate,
                       detail::activation(ctx, "limited_swiglu", detail::LimitedUp{}, up));
}

}  // namespace ft::inline FTLIB_ABI
