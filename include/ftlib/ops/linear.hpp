// ops/linear.hpp: y = x W^T + b, plain and with a low-rank addition (LoRA): contract, checks, autograd rules.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/gemm.shared.hpp>  // DenseOperand, StoredOperand
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/linear.cpu.hpp>  // add_column_sums, flat_outer
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/linear.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

namespace detail {
template <Scalar T, Device D>
void check_linear(const char* op, const Shape& x, const Parameter<T, D>& w, const Parameter<T, D>* bias) {
  if (w.shape().rank() != 2 || x.rank() < 1 || x.back() != w.shape()[1])
    throw Error(str(op, ": x ", x, " does not fit weight ", w.shape(), ' ', w.weight().type, " '", w.name,
                    "': last axes differ"),
                "weights are (out, in); check that all files come from one model.");
  if (bias && bias->shape() != Shape{w.shape()[0]})
    throw Error(
        str(op, ": bias ", bias->shape(), " '", bias->name, "' does not fit weight ", w.shape(), " '", w.name, "'"));
}
inline Shape with_last(Shape shape, int64_t last) {
  shape[-1] = last;
  return shape;
}
/// y (N, out) = or += alpha x (N, in) W^T + bias
template <Scalar T, Device D>
void project(Context<D>& ctx, Write write, View<T> y, In<T> x, const Stored<D>& w, accumulate_t<T> alpha = 1,
             const T* bias = nullptr) {
  gemm(ctx, write, x.rows(), w.shape[0], w.shape[1], y.data, w.shape[0], DenseOperand<T>{x.data, x.cols(), 1},
       StoredOperand{w.type, w.data, w.shape[0], w.shape[1], Transpose::yes}, alpha, bias);
}
/// dx (N, in) = or += alpha dy (N, out) W
template <Scalar T, Device D>
void project_back(Context<D>& ctx, Write write, View<T> dx, In<T> dy, const Stored<D>& w, accumulate_t<T> alpha = 1) {
  gemm(ctx, write, dy.rows(), w.shape[1], w.shape[0], dx.data, w.shape[1], DenseOperand<T>{dy.data, dy.cols(), 1},
       StoredOperand{w.type, w.data, w.shape[0], w.shape[1], Transpose::no}, alpha);
}
/// dw (out, in) = or += alpha dy^T (out, N) x (N, in)
template <Scalar T, Device D>
void outer(Context<D>& ctx, Write write, View<accumulate_t<T>> dw, View<const T> dy, In<T> x,
           accumulate_t<T> alpha = 1) {
  gemm(ctx, write, dy.cols(), x.cols(), x.rows(), dw.data, x.cols(), DenseOperand<T>{dy.data, 1, dy.cols()},
       DenseOperand<T>{x.data, x.cols(), 1}, alpha);
}
}  // namespace detail

/// y = x W^T + b: (..., in), (out, in), (out) -> (..., out). W may be stored in any DType; a null bias is none.
template <Scalar T, Device D>
Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& w, Parameter<T, D>* bias = nullptr) {
  detail::check_linear("linear", x_.shape(), w, bias);
  const Tensor<T, D> x = contiguous(ctx, x_);
  Tensor<T, D> y(ctx, detail::with_last(x.shape(), w.shape()[0]));
  detail::project(ctx, Write::assign, y.view(), x.view(), w.weight(), 1, bias ? bias->value.data() : nullptr);
  // dx = dy W;  dW += dy^T x;  db += sum over rows of dy
  record(ctx, "linear", y, {x, w, bias},
         [&w, bias, id = TensorId<T>(x), kept = w.trainable ? x : Tensor<T, D>{}](Gradients<T, D>& g) {
           Context<D>& context = g.context();
           if (auto [dx, write] = g.write(id); dx) detail::project_back(context, write, dx, g.incoming(), w.weight());
           if (auto [dw, write] = g.write(w); dw) detail::outer(context, write, dw, g.incoming(), kept.view());
           if (auto db = g.add(bias)) add_column_sums(context, db, g.incoming());
         });
  return y;
}

/// y = x W^T + b + s (x A^T) B^T, with A (R, in) and B (out, R): LoRA beside a frozen or trained W.   arXiv:2106.09685
template <Scalar T, Device D>
Tensor<T, D> lora_linear(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& w, Parameter<T, D>& a,
                         Parameter<T, D>& b, float s, Parameter<T, D>* bias = nullptr) {
  detail::check_linear("lora_linear", x_.shape(), w, bias);
  if (a.shape().rank() != 2 || b.shape() != Shape{w.shape()[0], a.shape()[0]} || a.shape()[1] != w.shape()[1])
    throw Error(
        str("lora_linear: A ", a.shape(), " and B ", b.shape(), " do not fit weight ", w.shape(), " '", w.name, "'"),
        "A is (rank, in), B is (out, rank).");
  const Tensor<T, D> x = contiguous(ctx, x_);
  Tensor<T, D> u(ctx, detail::with_last(x.shape(), a.shape()[0])), y(ctx, detail::with_last(x.shape(), w.shape()[0]));
  detail::project(ctx, Write::assign, u.view(), x.view(), a.weight());
  detail::project(ctx, Write::assign, y.view(), x.view(), w.weight(), 1, bias ? bias->value.data() : nullptr);
  detail::project(ctx, Write::add, y.view(), u.view(), b.weight(), s);
  // du = s dy B;  dB += s dy^T u;  dA += du^T x;  dx = dy W + du A;  dW += dy^T x;  db += sum over rows of dy
  record(ctx, "lora_linear", y, {x, w, a, b, bias}, [&w, &a, &b, bias, x, u, s](Gradients<T, D>& g) {
    Context<D>& context = g.context();
    const auto dy = g.incoming();
    Tensor<T, D> du(context, u.shape());
    detail::project_back(context, Write::assign, du.view(), dy, b.weight(), s);
    if (auto [dx, write] = g.write(TensorId<T>(x)); dx) {
      detail::project_back(context, write, dx, dy, w.weight());
      detail::project_back(context, Write::add, dx, du.view(), a.weight());
    }
    if (auto [db, write] = g.write(b); db) detail::outer(context, write, db, dy, u.view(), s);
    if (auto [da, write] = g.write(a); da) flat_outer<T>(context, write, da, du.view(), x.view());
    if (auto [dw, write] = g.write(w); dw) detail::outer(context, write, dw, dy, x.view());
    if (auto dbias = g.add(bias)) add_column_sums(context, dbias, dy);
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
