// ops/elementwise.cpu.hpp: element by element on the CPU, by groups of rows, and sums to a scalar.
#pragma once
#include <ftlib/ops/simd.cpu.hpp>     // for_vectors
#include <ftlib/tensor/copy.cpu.hpp>  // elementwise_grain, parallel_for

#include <algorithm>  // std::min
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
inline namespace FTLIB_SIMD {
/// f(at) for all elements, shared among threads; see for_vectors.
template <class T, class F> void for_all_vectors(Context<Cpu>& ctx, int64_t count, int64_t grain, F f) {
  constexpr int64_t unit = 64;  // so that only the last thread has part of a vector, and a cache line is one thread's
  parallel_for(ctx.pool(), (count + unit - 1) / unit, grain / unit,
               [&](int64_t begin, int64_t end) { for_vectors<T>(begin * unit, std::min(count, end * unit), f); });
}
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
/// sum (B, C) = f(n, at) over the rows n of each group. Each thread owns some columns, so the order of a sum does not
/// depend on timing.
template <Scalar T, class F>
void sum_by_group(Context<Cpu>& ctx, View<T> sum, const std::vector<int64_t>& starts, F f) {
  parallel_for(ctx.pool(), sum.cols(), std::max<int64_t>(16, elementwise_grain / (starts.back() + 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t g = 0; g < sum.rows(); ++g) {
                   T* const out = sum.row(g);
                   std::fill(out + begin, out + end, T(0));
                   for (int64_t n = starts[static_cast<std::size_t>(g)]; n < starts[static_cast<std::size_t>(g) + 1];
                        ++n)
                     for_vectors<T>(begin, end, [&](auto at) { at.store(out, at(out) + f(n, at)); });
                 }
               });
}
}  // namespace FTLIB_SIMD
}  // namespace detail

/// y = alpha a + beta b, all (...) and contiguous; an empty b counts as zeros. y may be a or b.
template <Scalar T> void linear_combination(Context<Cpu>& ctx, View<T> y, In<T> a, In<T> b, T alpha, T beta) {
  const auto each = [&](auto f) { detail::for_all_vectors<T>(ctx, y.count(), detail::elementwise_grain, f); };
  if (!b) each([&](auto at) { at.store(y.data, alpha * at(a.data)); });
  else if (alpha == 1 && beta == 1) each([&](auto at) { at.store(y.data, at(a.data) + at(b.data)); });
  else each([&](auto at) { at.store(y.data, alpha * at(a.data) + beta * at(b.data)); });
}

/// y = a b, all (...).
template <Scalar T> void product(Context<Cpu>& ctx, View<T> y, In<T> a, In<T> b) {
  detail::for_all_vectors<T>(ctx, y.count(), detail::elementwise_grain,
                             [&](auto at) { at.store(y.data, at(a.data) * at(b.data)); });
}

template <Scalar T>
void modulate_forward(Context<Cpu>& ctx,
                      View<T> y,    // (N, C)
                      In<T> x,      // (N, C)
                      In<T> scale,  // (B, C)
                      In<T> shift,  // (B, C)
                      const std::vector<int64_t>& starts) {
  const int64_t C = x.cols();
  detail::for_each_grouped_row(ctx, starts, C, [&](int64_t n, int64_t g) {
    detail::for_vectors<T>(
        0, C, [&](auto at) { at.store(y.row(n), at(x.row(n)) * (T(1) + at(scale.row(g))) + at(shift.row(g))); });
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
      detail::for_vectors<T>(0, C, [&](auto at) { at.store(dx.row(n), at(dy.row(n)) * (T(1) + at(scale.row(g)))); });
    });
  if (dscale)
    detail::sum_by_group(ctx, dscale, starts, [&](int64_t n, auto at) { return at(dy.row(n)) * at(x.row(n)); });
  if (dshift) detail::sum_by_group(ctx, dshift, starts, [&](int64_t n, auto at) { return at(dy.row(n)); });
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
    detail::for_vectors<T>(0, C, [&](auto at) { at.store(z.row(n), at(x.row(n)) + at(gate.row(g)) * at(y.row(n))); });
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
      detail::for_vectors<T>(0, C, [&](auto at) { at.store(dy.row(n), at(dz.row(n)) * at(gate.row(g))); });
    });
  if (dgate) detail::sum_by_group(ctx, dgate, starts, [&](int64_t n, auto at) { return at(dz.row(n)) * at(y.row(n)); });
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
                             return detail::sum_vectors<T>(n, [&](auto at) { return at(x.data + i); });
                           }));
}
/// dx (...) = factor dy ()
template <Scalar T> void sum_backward(Context<Cpu>& ctx, View<T> dx, In<T> dy, double factor) {
  if (dx) fill(ctx, dx, static_cast<T>(factor * static_cast<double>(*dy.data)));
}

/// y () = mean of (x - target)^2, both (...)
template <Scalar T> void mean_squared_error_forward(Context<Cpu>& ctx, View<T> y, In<T> x, In<T> target) {
  const double sum = detail::sum_stretches(ctx, x.count(), [&](int64_t i, int64_t n) {
    return detail::sum_vectors<T>(n, [&](auto at) {
      const auto off = at(x.data + i) - at(target.data + i);
      return off * off;
    });
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
