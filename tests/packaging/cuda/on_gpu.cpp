// tests/packaging/cuda/on_gpu.cpp: the library on the GPU.
#include <ftlib/cuda_runtime.cuda.cuh>
#include <ftlib/ops/linear.hpp>
#include <ftlib/ops/norm.hpp>

/// A number that a linear layer and a norm, forward and backward, come to.
float on_gpu() {
  using namespace ft;
  Context<Cuda> ctx;
  Parameter<float, Cuda> w("w", Tensor<float, Cuda>(ctx, {2, 2}, {1, 2, 3, 4}));
  Parameter<float, Cuda> norm("norm", Tensor<float, Cuda>(ctx, {2}, {1, 1}));
  Tensor<float, Cuda> x(ctx, {1, 2}, {1, -1});
  Tape<Cuda> tape(ctx);
  const auto y = rms_norm(ctx, linear(ctx, x, w), norm, 0.0f);
  tape.backward(y, Tensor<float, Cuda>(ctx, y.shape(), {1, 0}));
  return y.to_host(ctx)[0] + w.grad.to_host(ctx)[0];
}
