// nn/linear.hpp: Linear, a matrix with its optional bias.
#pragma once
#include <ftlib/nn/adapter.hpp>  // project

#include <functional>  // std::function

namespace ft::inline FTLIB_ABI {

/// Without a weight it stands for a layer that is not there.
template <Scalar T, Device D> struct Linear {
  Parameter<T, D> weight = {};  // (out, in)
  Parameter<T, D> bias = {};    // (out), or empty

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x) {
    return project(ctx, x, weight, bias ? &bias : nullptr);
  }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    if (weight) f(weight);
    if (bias) f(bias);
  }
};

}  // namespace ft::inline FTLIB_ABI
