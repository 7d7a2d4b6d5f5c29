// ops/rows.cpu.hpp: rows in a new order, and means of groups of rows, on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/elementwise.cpu.hpp>  // for_each_grouped_row, sum_by_group

#include <algorithm>  // std::copy_n
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
/// f(i, rows[i] - first) for those rows that lie in [first, first + count).
template <class F>
void for_each_taken_row(Context<Cpu>& ctx, const std::vector<int32_t>& rows, int64_t first, int64_t count, int64_t C,
                        F f) {
  parallel_for(ctx.pool(), static_cast<int64_t>(rows.size()), 1 + elementwise_grain / (C + 1),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   if (const int64_t row = rows[static_cast<std::size_t>(i)] - first; row >= 0 && row < count)
                     f(i, row);
               });
}
}  // namespace detail

/// y[i] = x[rows[i] - first] where that is a row of x; other rows of y are left.
template <Scalar T>
void take_rows_forward(Context<Cpu>& ctx,
                       View<T> y,  // (n, C)  assigned
                       In<T> x,    // (N, C)
                       int64_t first, const std::vector<int32_t>& rows) {
  const int64_t C = x.cols();
  detail::for_each_taken_row(ctx, rows, first, x.rows(), C,
                             [&](int64_t i, int64_t row) { std::copy_n(x.row(row), C, y.row(i)); });
}

template <Scalar T>
void take_rows_backward(Context<Cpu>& ctx, Write write,
                        View<T> dx,  // (N, C)  assigned or added, as `write` says
                        In<T> dy,    // (n, C)
                        int64_t first, const std::vector<int32_t>& rows) {
  const int64_t C = dx.cols();
  if (write == Write::assign) fill(ctx, dx, T(0.0f));
  detail::for_each_taken_row(ctx, rows, first, dx.rows(), C, [&](int64_t i, int64_t row) {
    detail::for_vectors<T>(0, C, [&](auto at) { at.store(dx.row(row), at(dx.row(row)) + at(dy.row(i))); });
  });
}

template <Scalar T>
void mean_rows_forward(Context<Cpu>& ctx,
                       View<T> y,                             // (B, C)  assigned
                       In<T> x,                               // (N, C)
                       const std::vector<int64_t>& starts) {  // (B + 1)
  detail::sum_by_group(ctx, y, starts, [&](int64_t n, auto at) { return at(x.row(n)); });
  for (int64_t g = 0; g < y.rows(); ++g) {
    const T size = static_cast<T>(starts[static_cast<std::size_t>(g) + 1] - starts[static_cast<std::size_t>(g)]);
    detail::for_vectors<T>(0, y.cols(), [&](auto at) { at.store(y.row(g), at(y.row(g)) / size); });
  }
}

template <Scalar T>
void mean_rows_backward(Context<Cpu>& ctx,
                        View<T> dx,                            // (N, C)  assigned
                        In<T> dy,                              // (B, C)
                        const std::vector<int64_t>& starts) {  // (B + 1)
  const int64_t C = dx.cols();
  detail::for_each_grouped_row(ctx, starts, C, [&](int64_t n, int64_t g) {
    const auto group = static_cast<std::size_t>(g);
    const T size = static_cast<T>(starts[group + 1] - starts[group]);
    detail::for_vectors<T>(0, C, [&](auto at) { at.store(dx.row(n), at(dy.row(g)) / size); });
  });
}

}  // namespace ft::inline FTLIB_ABI
