// tests/packaging/cuda/on_cpu.cpp: the library on the CPU.
#include <ftlib/ops/linear.hpp>
#include <ftlib/ops/norm.hpp>

/// A number that a linear layer and a norm, forward and backward, come to.
float on_cpu() {
  using namespace ft;
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("w", Tensor<float, Cpu>(ctx, {2, 2}, {1, 2, 3, 4}));
  Parameter<float, Cpu> norm("norm", Tensor<float, Cpu>(ctx, {2}, {1, 1}));
  Tensor<float, Cpu> x(ctx, {1, 2}, {1, -1});
  Tape<Cpu> tape(ctx);
  const auto y = rms_norm(ctx, linear(ctx, x, w), norm, 0.0f);
  tape.backward(y, Tensor<float, Cpu>(ctx, y.shape(), {1, 0}));
  return y.to_host(ctx)[0] + w.grad.to_host(ctx)[0];
}
