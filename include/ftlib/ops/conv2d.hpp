// ops/conv2d.hpp: a convolution over pictures, as a matrix product with the patches that its window covers: contract,
// checks, autograd rule.
//
// Pictures are (B, H, W, C), channels last: a place is a row as a token is, so that a 1 x 1 convolution is a Linear,
// norms, attention and products take them as they lie, and a patch is gathered in runs of C.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/conv2d.shared.hpp>  // Patches
#include <ftlib/ops/gemm.shared.hpp>    // DenseOperand
#include <ftlib/ops/linear.hpp>         // add_column_sums
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/conv2d.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/conv2d.cuda.cuh>
#endif

#include <algorithm>  // std::clamp, std::min

namespace ft::inline FTLIB_ABI {

/// How a convolution's window goes over a picture: by so many places a step, over a picture with so many rows and
/// columns of zeros around it.
struct ConvWindow {
  int64_t stride = 1;
  int64_t top = 0, left = 0, bottom = 0, right = 0;

  static ConvWindow padded(int64_t by) { return {1, by, by, by, by}; }
};

namespace detail {
/// f(first, columns) for all places' patches, some at a time, so that their matrix stays small.
template <Scalar T, Device D, class F> void for_patches(Context<D>& ctx, const Patches& at, In<T> x, F f) {
  constexpr int64_t most = std::same_as<D, Cpu> ? 1 << 20 : 1 << 25;  // elements at a time
  if (at.alone()) {
    f(int64_t{0}, View<const T>(x.data, {at.places(), at.C}));
    return;
  }
  const int64_t rows = std::clamp<int64_t>(most / at.width(), 1, std::max<int64_t>(1, at.places()));
  Tensor<T, D> columns(ctx, {rows, at.width()});
  for (int64_t first = 0; first < at.places(); first += rows) {
    const View<T> part(columns.data(), {std::min(rows, at.places() - first), at.width()});
    gather_patches(ctx, part, x, at, first);
    f(first, View<const T>(part));
  }
}
/// Patches of dy that each place of x took part in.
inline Patches turned(const Patches& p, int64_t channels) {
  return {p.B, p.rows, p.cols, channels, p.H, p.W, p.kh, p.kw, 1, -1, p.step, -p.top, -p.left};
}
}  // namespace detail

/// y[b, h, v, o] = bias[o] + sum over i, j, c of w[o, c, i, j] x[b, h stride - top + i, v stride - left + j, c], x 0
/// outside: (B, H, W, C), (O, C, kh, kw) as torch's Conv2d holds it, (O) -> (B, (H + top + bottom - kh) / stride + 1,
/// (W + left + right - kw) / stride + 1, O). A null bias is none. Throws Error where shapes do not fit.
template <Scalar T, Device D>
Tensor<T, D> conv2d(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& w, Parameter<T, D>* bias = nullptr,
                    const ConvWindow& window = {}) {
  if (x_.rank() != 4 || !w.value || w.shape().rank() != 4 || x_.size(3) != w.shape()[1] || w.count() == 0)
    throw Error(str("conv2d: x ", x_.shape(), " does not fit w ", w.shape(), " '", w.name, "'"),
                "they are (pictures, height, width, channels) and (out, channels, height, width), w in the compute "
                "type.");
  if (bias && bias->shape() != Shape{w.shape()[0]})
    throw Error(
        str("conv2d: bias ", bias->shape(), " '", bias->name, "' does not fit w ", w.shape(), " '", w.name, "'"));
  const int64_t O = w.shape()[0], C = w.shape()[1], kh = w.shape()[2], kw = w.shape()[3];
  const int64_t down = x_.size(1) + window.top + window.bottom - kh,
                across = x_.size(2) + window.left + window.right - kw;
  if (window.stride < 1 || std::min({window.top, window.left, window.bottom, window.right, down, across}) < 0)
    throw Error(str("conv2d: a window ", kh, " x ", kw, " of stride ", window.stride, " does not go over x ",
                    x_.shape(), " with ", window.top, ", ", window.left, ", ", window.bottom, " and ", window.right,
                    " rows and columns of zeros above, left, below and right"));
  const Tensor<T, D> x = contiguous(ctx, x_);
  const Patches at{x.size(0),
                   x.size(1),
                   x.size(2),
                   C,
                   down / window.stride + 1,
                   across / window.stride + 1,
                   kh,
                   kw,
                   window.stride,
                   1,
                   1,
                   -window.top,
                   -window.left};
  // (O, kh, kw, C): what stands beside a patch.
  const Shape beside{O, kh, kw, C}, strides{C * kh * kw, kw, 1, kh * kw};
  const int64_t K = at.width();
  const Tensor<T, D> taps = contiguous(ctx, w.value.strided(0, beside, strides));
  Tensor<T, D> y(ctx, {at.B, at.rows, at.cols, O});
  detail::for_patches<T>(ctx, at, x.view(), [&](int64_t first, View<const T> columns) {
    gemm(ctx, Write::assign, columns.rows(), O, K, y.data() + first * O, O, DenseOperand<T>{columns.data, K, 1},
         DenseOperand<T>{taps.data(), 1, K}, accumulate_t<T>(1), bias ? bias->value.data() : nullptr);
  });
  // dx is the convolution of dy with the window turned around;  dw += dy^T patches;  db += sum over places of dy
  record(ctx, "conv2d", y, {x, w, bias},
         [&w, bias, at, beside, strides, O, C, K, id = TensorId<T>(x),
          kept = w.trainable ? x : Tensor<T, D>{}](Gradients<T, D>& g) {
           Context<D>& context = g.context();
           const View<const T> dy = g.incoming();
           if (const View<T> dx = g.assign(id)) {
             const Patches back = detail::turned(at, O);
             const Tensor<T, D> turned = contiguous(
                 context, w.value.strided(0, {at.kh, at.kw, O, C}, {at.kw, 1, C * at.kh * at.kw, at.kh * at.kw}));
             detail::for_patches<T>(context, back, dy, [&](int64_t first, View<const T> columns) {
               gemm(context, Write::assign, columns.rows(), C, back.width(), dx.data + first * C, C,
                    DenseOperand<T>{columns.data, back.width(), 1}, DenseOperand<T>{turned.data(), C, 1},
                    accumulate_t<T>(1));
             });
           }
           if (const View<accumulate_t<T>> dw = g.add(w)) {
             auto dtaps = Tensor<accumulate_t<T>, D>::zeros(context, beside);
             detail::for_patches<T>(context, at, kept.view(), [&](int64_t first, View<const T> columns) {
               gemm(context, Write::add, O, K, columns.rows(), dtaps.data(), K,
                    DenseOperand<T>{dy.data + first * O, 1, O}, DenseOperand<T>{columns.data, K, 1},
                    accumulate_t<T>(1));
             });
             accumulate(context, View<accumulate_t<T>>(dw.data, beside, strides),
                        View<const accumulate_t<T>>(dtaps.view()));
           }
           if (const View<accumulate_t<T>> db = g.add(bias))
             add_column_sums(context, db, View<const T>(dy.data, {at.places(), O}));
         });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
