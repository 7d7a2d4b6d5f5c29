// ops/dora.hpp: what DoRA needs beside LoRA's product: the norms of the rows of W + s B A, and scaled columns. Both are
// made of kernels that other ops have, so there is one of each device already.                        arXiv:2402.09353
#pragma once
#include <ftlib/ops/elementwise.hpp>  // modulate_forward, modulate_backward
#include <ftlib/ops/linear.hpp>       // gemm, check_linear
#include <ftlib/ops/norm.hpp>         // norm_forward

#include <algorithm>  // std::min
#include <cmath>      // std::sqrt

namespace ft::inline FTLIB_ABI {

/// 1 / ||W + s B A|| of each row: W (out, in) in any DType, A (R, in), B (out, R) -> (out). A row of zeros gives a
/// number so large that it stands for infinity and times zero is zero. Not recorded. Holds `chunk_bytes` of dense rows
/// at a time, twice.
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> inverse_row_norms(Context<D>& ctx, const Parameter<T, D>& w, const Parameter<T, D>& a,
                                             const Parameter<T, D>& b, float s,
                                             int64_t chunk_bytes = int64_t{16} << 20) {
  using A = accumulate_t<T>;
  const int64_t out = w.shape()[0], in = w.shape()[1], R = a.shape()[0];
  const int64_t chunk = std::min(out, std::max<int64_t>(1, chunk_bytes / (in * static_cast<int64_t>(sizeof(T)))));
  Tensor<A, D> r(ctx, {out});
  for (int64_t begin = 0; begin < out; begin += chunk) {
    const int64_t n = std::min(chunk, out - begin);
    Tensor<T, D> rows(ctx, {n, in}), unused(ctx, {n, in});
    if (w.value) copy(ctx, rows.view(), View<const T>(w.value.data() + begin * in, {n, in}));
    else dequantise(ctx, rows.view(), Stored<D>{w.stored.type, {n, in}, w.stored.row(begin), w.stored.owner});
    gemm(ctx, Write::add, n, in, R, rows.data(), in, DenseOperand<T>{b.value.data() + begin * R, R, 1},
         DenseOperand<T>{a.value.data(), in, 1}, A(s));
    // RMSNorm's factor is 1 / sqrt(mean of squares + eps).
    norm_forward(ctx, Norm<T>{.centred = false, .eps = 1e-30f, .starts = {0, n}}, unused.view(), View<T>{}, View<A>{},
                 View<A>(r.data() + begin, {n}), View<const T>(rows.view()), View<const T>{});
  }
  Tensor<A, D> inverse(ctx, {out});
  linear_combination(ctx, inverse.view(), View<const A>(r.view()), {},
                     static_cast<A>(1 / std::sqrt(static_cast<double>(in))), A(0));
  return inverse;
}

/// y = x m r + b, column by column: (..., C), (C), (C), (C) -> (..., C). m and b are trained, r is a constant of the
/// gradient; a null bias is none.
template <Scalar T, Device D>
Tensor<T, D> scale_columns(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& m,
                           const Tensor<accumulate_t<T>, D>& r, Parameter<T, D>* bias = nullptr) {
  using A = accumulate_t<T>;
  const int64_t C = x_.cols();
  if (m.shape() != Shape{C} || r.shape() != Shape{C} || (bias && bias->shape() != Shape{C}))
    throw Error(
        str("scale_columns: x ", x_.shape(), " does not fit m ", m.shape(), " '", m.name, "' and r ", r.shape()),
        "they are one value a column.");
  const Tensor<T, D> x = contiguous(ctx, x_);
  const Shape flat{x.rows(), C};
  const std::vector<int64_t> starts{0, x.rows()};
  // modulate's scale is m r - 1, made in the type that sums are kept in: near 1 a bfloat16 has few digits.
  Tensor<A, D> factor(ctx, {1, C}), ones(ctx, {1, C});
  const Tensor<A, D> magnitude = convert<A>(ctx, m.value);
  product(ctx, View<A>(factor.data(), {C}), View<const A>(magnitude.view()), View<const A>(r.view()));
  fill(ctx, ones.view(), A(1));
  linear_combination(ctx, factor.view(), View<const A>(factor.view()), View<const A>(ones.view()), A(1), A(-1));
  const Tensor<T, D> scale = convert<T>(ctx, factor);
  const Tensor<T, D> shift = bias ? bias->value.reshaped({1, C}) : Tensor<T, D>::zeros(ctx, {1, C});
  Tensor<T, D> y(ctx, x.shape());
  modulate_forward(ctx, View<T>(y.data(), flat), View<const T>(x.data(), flat), View<const T>(scale.view()),
                   View<const T>(shift.view()), starts);
  // dx = dy m r;  dm += r (sum over rows of dy x);  db += sum over rows of dy
  record(ctx, "scale_columns", y, {x, m, bias},
         [&m, bias, id = TensorId<T>(x), x = m.trainable ? x : Tensor<T, D>{}, r, scale, flat,
          starts](Gradients<T, D>& g) {
           Context<D>& c = g.context();
           const View<const T> dy(g.incoming().data, flat);
           View<T> dx = g.assign(id);
           if (dx) dx = View<T>(dx.data, flat);
           const auto dm = g.add(m);
           Tensor<T, D> sums = dm ? Tensor<T, D>(c, scale.shape()) : Tensor<T, D>{};
           modulate_backward(c, dx, sums.view(), View<T>{}, dy, View<const T>(x.data(), flat),
                             View<const T>(scale.view()), starts);
           if (dm) {
             Tensor<A, D> share = convert<A>(c, sums).reshaped(r.shape());
             product(c, share.view(), View<const A>(share.view()), View<const A>(r.view()));
             accumulate(c, dm, View<const A>(share.view()));
           }
           if (const auto db = g.add(bias)) add_column_sums(c, db, dy);
         });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
