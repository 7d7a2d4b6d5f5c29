// ops/elementwise.hpp: residual additions, products, modulation by groups of rows, sums to a scalar: contract, checks,
// autograd rules.
#pragma once
#include <ftlib/autograd/tape.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/elementwise.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/elementwise.cuda.cuh>
#endif

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
inline void check_same(const char* op, const Shape& a, const Shape& b) {
  if (a != b) throw Error(str(op, ": shapes ", a, " and ", b, " differ"), "nothing is broadcast here.");
}
/// The groups' starts for x (N, C) with one row of `by` (B, C) each; without starts, N / B rows each.
inline std::vector<int64_t> row_groups(const char* op, const Shape& x, const Shape& by, std::vector<int64_t> starts) {
  if (x.rank() != 2 || by.rank() != 2 || x[1] != by[1])
    throw Error(str(op, ": x ", x, " does not fit ", by), "they are (rows, width) and (groups, width).");
  const int64_t N = x[0], B = by[0];
  if (starts.empty()) {
    if (B == 0 ? N != 0 : N % B != 0)
      throw Error(str(op, ": x ", x, " is not ", B, " groups of equal size"), "give the groups' starts.");
    for (int64_t g = 0; g <= B; ++g) starts.push_back(B == 0 ? 0 : g * (N / B));
  }
  bool rising = static_cast<int64_t>(starts.size()) == B + 1 && starts.front() == 0 && starts.back() == N;
  for (std::size_t g = 0; g + 1 < starts.size(); ++g) rising &= starts[g] <= starts[g + 1];
  if (!rising)
    throw Error(str(op, ": ", starts.size(), " starts do not part x ", x, " into ", B, " groups"),
                "they rise from 0 to the number of rows, one more than groups.");
  return starts;
}
/// y = a + s b; gradients dy and s dy.
template <Scalar T, Device D>
Tensor<T, D> weighted_sum(Context<D>& ctx, const char* op, const Tensor<T, D>& a, const Tensor<T, D>& b, float s) {
  check_same(op, a.shape(), b.shape());
  Tensor<T, D> y(ctx, a.shape());
  linear_combination(ctx, y.view(), contiguous(ctx, a).view(), contiguous(ctx, b).view(), T(1.0f), T(s));
  record(ctx, op, y, {a, b}, [a = TensorId<T>(a), b = TensorId<T>(b), s](Gradients<T, D>& g) {
    g.give(a, g.incoming_tensor());  // shared, not copied
    if (s == 1) g.give(b, g.incoming_tensor());
    else if (const View<T> db = g.assign(b)) linear_combination(g.context(), db, g.incoming(), {}, T(s), T(0.0f));
  });
  return y;
}
}  // namespace detail

/// y = a + b, equal shapes.
template <Scalar T, Device D> Tensor<T, D> add(Context<D>& ctx, const Tensor<T, D>& a, const Tensor<T, D>& b) {
  return detail::weighted_sum(ctx, "add", a, b, 1);
}
/// y = a - b, equal shapes.
template <Scalar T, Device D> Tensor<T, D> sub(Context<D>& ctx, const Tensor<T, D>& a, const Tensor<T, D>& b) {
  return detail::weighted_sum(ctx, "sub", a, b, -1);
}
/// y = a + s b, equal shapes.
template <Scalar T, Device D>
Tensor<T, D> add_scaled(Context<D>& ctx, const Tensor<T, D>& a, const Tensor<T, D>& b, float s) {
  return detail::weighted_sum(ctx, "add_scaled", a, b, s);
}

/// y = s x, any shape.
template <Scalar T, Device D> Tensor<T, D> scale(Context<D>& ctx, const Tensor<T, D>& x, float s) {
  Tensor<T, D> y(ctx, x.shape());
  linear_combination(ctx, y.view(), contiguous(ctx, x).view(), {}, T(s), T(0.0f));
  record(ctx, "scale", y, {x}, [x = TensorId<T>(x), s](Gradients<T, D>& g) {
    if (const View<T> dx = g.assign(x)) linear_combination(g.context(), dx, g.incoming(), {}, T(s), T(0.0f));
  });
  return y;
}

/// y = a b, element by element, equal shapes.
template <Scalar T, Device D> Tensor<T, D> mul(Context<D>& ctx, const Tensor<T, D>& a_, const Tensor<T, D>& b_) {
  detail::check_same("mul", a_.shape(), b_.shape());
  const Tensor<T, D> a = contiguous(ctx, a_), b = contiguous(ctx, b_);
  Tensor<T, D> y(ctx, a.shape());
  product(ctx, y.view(), a.view(), b.view());
  const Tensor<T, D> none;  // da = dy b, db = dy a: a factor is kept for the other one's gradient alone
  record(ctx, "mul", y, {a, b},
         [a = TensorId<T>(a), b = TensorId<T>(b), a_values = b.node() ? a : none,
          b_values = a.node() ? b : none](Gradients<T, D>& g) {
           if (const View<T> da = g.assign(a)) product(g.context(), da, g.incoming(), b_values.view());
           if (const View<T> db = g.assign(b)) product(g.context(), db, g.incoming(), a_values.view());
         });
  return y;
}

/// y = x (1 + scale) + shift, with one row of scale and shift for each group of rows of x: (N, C), (B, C), (B, C) ->
/// (N, C). Group g is rows [starts[g], starts[g + 1]); without starts, N / B rows each.   adaLN: arXiv:2212.09748
template <Scalar T, Device D>
Tensor<T, D> modulate(Context<D>& ctx, const Tensor<T, D>& x_, const Tensor<T, D>& scale_, const Tensor<T, D>& shift_,
                      const std::vector<int64_t>& starts_ = {}) {
  detail::check_same("modulate", scale_.shape(), shift_.shape());
  const std::vector<int64_t> starts = detail::row_groups("modulate", x_.shape(), scale_.shape(), starts_);
  const Tensor<T, D> x = contiguous(ctx, x_), s = contiguous(ctx, scale_), t = contiguous(ctx, shift_);
  Tensor<T, D> y(ctx, x.shape());
  modulate_forward(ctx, y.view(), x.view(), s.view(), t.view(), starts);
  // dx = dy (1 + scale); over a group's rows, dscale = sum of dy x and dshift = sum of dy
  record(ctx, "modulate", y, {x, s, t}, [x, s, t = TensorId<T>(t), starts](Gradients<T, D>& g) {
    const View<T> dx = g.assign(x), ds = g.assign(s);
    modulate_backward(g.context(), dx, ds, g.assign(t), g.incoming(), x.view(), s.view(), starts);
  });
  return y;
}

/// z = x + gate y, with one row of gate for each group of rows: (N, C), (N, C), (B, C) -> (N, C). Groups as in
/// modulate.                                                                               adaLN-Zero: arXiv:2212.09748
template <Scalar T, Device D>
Tensor<T, D> gate_residual(Context<D>& ctx, const Tensor<T, D>& x, const Tensor<T, D>& y_, const Tensor<T, D>& gate_,
                           const std::vector<int64_t>& starts_ = {}) {
  detail::check_same("gate_residual", x.shape(), y_.shape());
  const std::vector<int64_t> starts = detail::row_groups("gate_residual", x.shape(), gate_.shape(), starts_);
  const Tensor<T, D> y = contiguous(ctx, y_), gate = contiguous(ctx, gate_);
  Tensor<T, D> z(ctx, x.shape());
  gate_residual_forward(ctx, z.view(), contiguous(ctx, x).view(), y.view(), gate.view(), starts);
  // dx = dz;  dy = dz gate;  over a group's rows, dgate = sum of dz y
  record(ctx, "gate_residual", z, {x, y, gate}, [x = TensorId<T>(x), y, gate, starts](Gradients<T, D>& g) {
    const View<T> dy = g.assign(y);
    gate_residual_backward(g.context(), dy, g.assign(gate), g.incoming(), y.view(), gate.view(), starts);
    g.give(x, g.incoming_tensor());
  });
  return z;
}

namespace detail {
template <Scalar T, Device D>
Tensor<T, D> scaled_sum(Context<D>& ctx, const char* op, const Tensor<T, D>& x, double factor) {
  Tensor<T, D> y(ctx, Shape{});
  sum_forward(ctx, y.view(), contiguous(ctx, x).view(), factor);
  record(ctx, op, y, {x}, [x = TensorId<T>(x), factor](Gradients<T, D>& g) {
    sum_backward(g.context(), g.assign(x), g.incoming(), factor);
  });
  return y;
}
}  // namespace detail

/// The sum of all elements: (...) -> ().
template <Scalar T, Device D> Tensor<T, D> sum(Context<D>& ctx, const Tensor<T, D>& x) {
  return detail::scaled_sum(ctx, "sum", x, 1);
}
/// The mean of all elements: (...) -> (). Throws Error where there are none.
template <Scalar T, Device D> Tensor<T, D> mean(Context<D>& ctx, const Tensor<T, D>& x) {
  if (x.count() == 0) throw Error(str("mean: x ", x.shape(), " has no elements"));
  return detail::scaled_sum(ctx, "mean", x, 1 / static_cast<double>(x.count()));
}

/// mean of (x - target)^2, equal shapes: (...), (...) -> (). Throws Error where there are no elements.
template <Scalar T, Device D>
Tensor<T, D> mean_squared_error(Context<D>& ctx, const Tensor<T, D>& x_, const Tensor<T, D>& target_) {
  detail::check_same("mean_squared_error", x_.shape(), target_.shape());
  if (x_.count() == 0) throw Error(str("mean_squared_error: x ", x_.shape(), " has no elements"));
  const Tensor<T, D> x = contiguous(ctx, x_), target = contiguous(ctx, target_);
  Tensor<T, D> y(ctx, Shape{});
  mean_squared_error_forward(ctx, y.view(), x.view(), target.view());
  record(ctx, "mean_squared_error", y, {x, target}, [x, target](Gradients<T, D>& g) {
    const View<T> dx = g.assign(x);
    mean_squared_error_backward(g.context(), dx, g.assign(target), g.incoming(), x.view(), target.view());
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
