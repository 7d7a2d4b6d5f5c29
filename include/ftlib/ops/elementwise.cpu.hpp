// ops/elementwise.cpu.hpp: element by element on the CPU, by groups of rows, and sums to a scalar.
#pragma once
#include <ftlib/ops/array.cpu.hpp>
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>

#include <algorithm>  // std::min
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// y = alpha a + beta b, all (...) and contiguous; an empty b counts as zeros. y may be a or b.
template <Scalar T> void linear_combination(Context<Cpu>& ctx, View<T> y, In<T> a, In<T> b, T alpha, T beta) {
  if (!b)
    detail::for_each_stretch(
        ctx, y.count(), [=](auto out, auto x) { out = alpha * x; }, y.data, a.data);
  else if (alpha == 1 && beta == 1)
    detail::for_each_stretch(
        ctx, y.count(), [](auto out, auto x, auto z) { out = x + z; }, y.data, a.data, b.data);
  else
    detail::for_each_stretch(
        ctx, y.count(), [=](auto out, auto x, auto z) { out = alpha * x + beta * z; }, y.data, a.data, b.data);
}

/// y = a b, all (...).
template <Scalar T> void product(Context<Cpu>& ctx, View<T> y, In<T> a, In<T> b) {
  detail::for_each_stretch(
      ctx, y.count(), [](auto out, auto x, auto z) { out = x * z; }, y.data, a.data, b.data);
}

namespace detail {
/// f(n, g) for each row n of a group g = rows [starts[g], starts[g + 1]).
template <class F> void for_each_grouped_row(Context<Cpu>& ctx, const std::vector<int64_t>& starts, int64_t C, F f) {
  parallel_for(ctx.pool(), starts.back(), 1 + elementwise_grain / (C + 1), [&](int64_t begin, int64_t end) {
    auto g = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
    for (int64_t n = begin; n < end; ++n) {
      while (starts[static_cast<std::size_t>(g) + 1] <= n) ++g;  // groups may be empty
      f(n, g);
    }
  });
}
/// sum (B, C) = f(n, first column, columns) over the rows of each group. Each thread owns some columns, so the order of
/// a sum does not depend on timing.
template <Scalar T, class F>
void sum_by_group(Context<Cpu>& ctx, View<T> sum, const std::vector<int64_t>& starts, F f) {
  const int64_t C = sum.cols();
  parallel_for(
      ctx.pool(), C, std::max<int64_t>(16, elementwise_grain / (starts.back() + 1)), [&](int64_t begin, int64_t end) {
        for (int64_t g = 0; g < sum.rows(); ++g) {
          auto out = array(sum.row(g) + begin, end - begin);
          out.setZero();
          for (int64_t n = starts[static_cast<std::size_t>(g)]; n < starts[static_cast<std::size_t>(g) + 1]; ++n)
            out += f(n, begin, end - begin);
        }
      });
}
}  // namespace detail

template <Scalar T>
void modulate_forward(Context<Cpu>& ctx,
                      View<T> y,    // (N, C)
                      In<T> x,      // (N, C)
                      In<T> scale,  // (B, C)
                      In<T> shift,  // (B, C)
                      const std::vector<int64_t>& starts) {
  const int64_t C = x.cols();
  detail::for_each_grouped_row(ctx, starts, C, [&](int64_t n, int64_t g) {
    detail::array(y.row(n), C) =
        detail::array(x.row(n), C) * (1 + detail::array(scale.row(g), C)) + detail::array(shift.row(g), C);
  });
}

template <Scalar T>
void modulate_backward(Context<Cpu>& ctx,
                       View<T> dx,      // (N, C)  assigned
                       View<T> dscale,  // (B, C)  assigned
                       View<T> dshift,  // (B, C)  assigned
                       In<T> dy,        // (N, C)
                       In<T> x,         // (N, C)
                       In<T> scale,     // (B, C)
                       const std::vector<int64_t>& starts) {
  const int64_t C = dy.cols();
  if (dx)
    detail::for_each_grouped_row(ctx, starts, C, [&](int64_t n, int64_t g) {
      detail::array(dx.row(n), C) = detail::array(dy.row(n), C) * (1 + detail::array(scale.row(g), C));
    });
  if (dscale)
    detail::sum_by_group(ctx, dscale, starts, [&](int64_t n, int64_t c, int64_t size) {
      return detail::array(dy.row(n) + c, size) * detail::array(x.row(n) + c, size);
    });
  if (dshift)
    detail::sum_by_group(ctx, dshift, starts,
                         [&](int64_t n, int64_t c, int64_t size) { return detail::array(dy.row(n) + c, size); });
}

template <Scalar T>
void gate_residual_forward(Context<Cpu>& ctx,
                           View<T> z,   // (N, C)
                           In<T> x,     // (N, C)
                           In<T> y,     // (N, C)
                           In<T> gate,  // (B, C)
                           const std::vector<int64_t>& starts) {
  const int64_t C = x.cols();
  detail::for_each_grouped_row(ctx, starts, C, [&](int64_t n, int64_t g) {
    detail::array(z.row(n), C) =
        detail::array(x.row(n), C) + detail::array(gate.row(g), C) * detail::array(y.row(n), C);
  });
}

template <Scalar T>
void gate_residual_backward(Context<Cpu>& ctx,
                            View<T> dy,     // (N, C)  assigned
                            View<T> dgate,  // (B, C)  assigned
                            In<T> dz,       // (N, C)
                            In<T> y,        // (N, C)
                            In<T> gate,     // (B, C)
                            const std::vector<int64_t>& starts) {
  const int64_t C = dz.cols();
  if (dy)
    detail::for_each_grouped_row(ctx, starts, C, [&](int64_t n, int64_t g) {
      detail::array(dy.row(n), C) = detail::array(dz.row(n), C) * detail::array(gate.row(g), C);
    });
  if (dgate)
    detail::sum_by_group(ctx, dgate, starts, [&](int64_t n, int64_t c, int64_t size) {
      return detail::array(dz.row(n) + c, size) * detail::array(y.row(n) + c, size);
    });
}

namespace detail {
/// The sum of f(begin, n) over stretches of a fixed length, taken in order in double: the same for any thread count.
template <class F> double sum_stretches(Context<Cpu>& ctx, int64_t count, F f) {
  constexpr int64_t stretch = 4096;
  const int64_t pieces = (count + stretch - 1) / stretch;
  std::vector<double> sums(static_cast<std::size_t>(pieces));
  parallel_for(ctx.pool(), pieces, elementwise_grain / stretch, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      sums[static_cast<std::size_t>(i)] = static_cast<double>(f(i * stretch, std::min(stretch, count - i * stretch)));
  });
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}
}  // namespace detail

/// y () = factor sum of x (...)
template <Scalar T> void sum_forward(Context<Cpu>& ctx, View<T> y, In<T> x, double factor) {
  *y.data = static_cast<T>(factor * detail::sum_stretches(ctx, x.count(), [&](int64_t i, int64_t n) {
                             return detail::array(x.data + i, n).sum();
                           }));
}
/// dx (...) = factor dy ()
template <Scalar T> void sum_backward(Context<Cpu>& ctx, View<T> dx, In<T> dy, double factor) {
  if (dx) fill(ctx, dx, static_cast<T>(factor * static_cast<double>(*dy.data)));
}

/// y () = mean of (x - target)^2, both (...)
template <Scalar T> void mean_squared_error_forward(Context<Cpu>& ctx, View<T> y, In<T> x, In<T> target) {
  const double sum = detail::sum_stretches(ctx, x.count(), [&](int64_t i, int64_t n) {
    return (detail::array(x.data + i, n) - detail::array(target.data + i, n)).square().sum();
  });
  *y.data = static_cast<T>(sum / static_cast<double>(x.count()));
}
/// dx (...) = dy () 2 (x - target) / count and dtarget (...) = -dx, both assigned
template <Scalar T>
void mean_squared_error_backward(Context<Cpu>& ctx, View<T> dx, View<T> dtarget, In<T> dy, In<T> x, In<T> target) {
  const T factor = static_cast<T>(2 * static_cast<double>(*dy.data) / static_cast<double>(x.count()));
  if (dx) linear_combination(ctx, dx, x, target, factor, -factor);
  if (dtarget) linear_combination(ctx, dtarget, x, target, -factor, factor);
}

}  // namespace ft::inline FTLIB_ABI
