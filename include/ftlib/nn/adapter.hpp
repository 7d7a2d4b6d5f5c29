// nn/adapter.hpp: Adapter, what may be hung onto a weight to change it without touching it; LoRA and its kin derive.
#pragma once
#include <ftlib/ops/linear.hpp>         // linear
#include <ftlib/tensor/dequantise.hpp>  // dequantise

#include <functional>  // std::function
#include <string>      // std::string

namespace ft::inline FTLIB_ABI {

/// A re-parameterisation of one matrix W: it replaces x W^T + b. Layers call project() and never know which one it is.
template <Scalar T, Device D> class Adapter {
 public:
  virtual ~Adapter() = default;
  /// The adapted x W^T + b.
  virtual Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias) = 0;
  /// W as the adapter has changed it, in the compute type, (out, in).
  virtual Tensor<T, D> merged(Context<D>& ctx, Parameter<T, D>& w) = 0;
  /// Visits the adapter's own parameters.
  virtual void visit(const std::function<void(Parameter<T, D>&)>& f) = 0;
};

/// x W^T + b, through the weight's adapter where it has one: what every layer calls.
template <Scalar T, Device D>
Tensor<T, D> project(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias = nullptr) {
  return w.adapter ? w.adapter->linear(ctx, x, w, bias) : linear(ctx, x, w, bias);
}

/// What stands in the place of a weight that is no factor of a product (a norm's, an embedding): itself, or what the
/// adapter in use has trained instead. Whatever reads such a weight asks this first.
template <Scalar T, Device D> Parameter<T, D>& in_use(Context<D>&, Parameter<T, D>& w) { return w; }

/// A stored weight in the compute type; a copy in any case.
template <Scalar T, Device D> Tensor<T, D> dense(Context<D>& ctx, const Parameter<T, D>& w) {
  if (w.value) return clone(ctx, w.value);
  Tensor<T, D> value(ctx, w.shape());
  dequantise(ctx, value.view(), w.stored);
  return value;
}

}  // namespace ft::inline FTLIB_ABI
