// ops/softmax.hpp: softmax and log softmax over the last axis: contract, checks, autograd rules.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/kinds.hpp>  // SoftmaxResult
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/softmax.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/softmax.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

namespace detail {
template <Scalar T, Device D>
Tensor<T, D> softmax(Context<D>& ctx, const char* op, const Tensor<T, D>& x_, SoftmaxResult result) {
  if (x_.rank() < 1 || x_.shape().back() < 1) throw Error(str(op, ": x ", x_.shape(), " has no last axis to sum over"));
  const Tensor<T, D> x = contiguous(ctx, x_);
  Tensor<T, D> y(ctx, x.shape());
  softmax_forward(ctx, y.view(), x.view(), result);
  // softmax: dx = y (dy - sum(dy y));  log softmax: dx = dy - exp(y) sum(dy)
  record(ctx, op, y, {x}, [x = TensorId<T>(x), y, result](Gradients<T, D>& g) {
    softmax_backward(g.context(), g.assign(x), g.incoming(), y.view(), result);
  });
  return y;
}
}  // namespace detail

/// y = exp(x) / sum(exp(x)) over the last axis, (..., C). Throws Error where there is none.
template <Scalar T, Device D> Tensor<T, D> softmax(Context<D>& ctx, const Tensor<T, D>& x) {
  return detail::softmax(ctx, "softmax", x, SoftmaxResult::probability);
}
/// y = x - log(sum(exp(x))) over the last axis, (..., C). Throws Error where there is none.
template <Scalar T, Device D> Tensor<T, D> log_softmax(Context<D>& ctx, const Tensor<T, D>& x) {
  return detail::softmax(ctx, "log_softmax", x, SoftmaxResult::logarithm);
}

}  // namespace ft::inline FTLIB_ABI
