// tests/packaging/cuda/on_device.hpp: what each way of building computes.
#pragma once
#include <ftlib/ops/linear.hpp>
#include <ftlib/ops/norm.hpp>

/// A number that a linear layer and a norm, forward and backward, come to. Static, so that each file has its own.
template <class D> static float on_device() {
  using namespace ft;
  Context<D> ctx;
  Parameter<float, D> w("w", Tensor<float, D>(ctx, {2, 2}, {1, 2, 3, 4}));
  Parameter<float, D> norm("norm", Tensor<float, D>(ctx, {2}, {1, 1}));
  Tensor<float, D> x(ctx, {1, 2}, {1, -1});
  Tape<D> tape(ctx);
  const auto y = rms_norm(ctx, linear(ctx, x, w), norm, 0.0f);
  tape.backward(y, Tensor<float, D>(ctx, y.shape(), {1, 0}));
  return y.to_host(ctx)[0] + w.grad.to_host(ctx)[0];
}
