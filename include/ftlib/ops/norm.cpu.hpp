// ops/norm.cpu.hpp: RMSNorm and LayerNorm on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/array.cpu.hpp>
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>

#include <cmath>  // std::sqrt

namespace ft::inline FTLIB_ABI {

namespace detail {
/// f(n) for each of N rows of C elements, in parallel.
template <class F> void for_each_row(Context<Cpu>& ctx, int64_t N, int64_t C, F f) {
  parallel_for(ctx.pool(), N, 1 + 8192 / C, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) f(n);
  });
}
/// f(first column, columns): each thread owns some columns, so the order of a sum over rows does not depend on timing.
template <class F> void for_columns(Context<Cpu>& ctx, int64_t N, int64_t C, F f) {
  parallel_for(ctx.pool(), C, 16 + 8192 / (N + 1), [&](int64_t begin, int64_t end) { f(begin, end - begin); });
}
}  // namespace detail

template <Scalar T>
void rms_norm_forward(Context<Cpu>& ctx,
                      View<T> y,                // (N, C)
                      View<accumulate_t<T>> r,  // (N)     1 / sqrt(mean(x^2) + eps)
                      In<T> x,                  // (N, C)
                      In<T> w,                  // (C)
                      float eps, float offset) {
  const int64_t C = x.cols();
  const auto v = detail::array(w.data, C) + T(offset);
  detail::for_each_row(ctx, x.rows(), C, [&](int64_t n) {
    const auto xn = detail::array(x.row(n), C);
    r.data[n] = 1 / std::sqrt(xn.square().mean() + T(eps));
    detail::array(y.row(n), C) = xn * r.data[n] * v;
  });
}

template <Scalar T>
void rms_norm_backward(Context<Cpu>& ctx,
                       View<T> dx,                // (N, C)  assigned
                       View<accumulate_t<T>> dw,  // (C)     added: a parameter's
                       In<T> dy,                  // (N, C)
                       In<T> x,                   // (N, C)
                       In<T> w,                   // (C)
                       In<accumulate_t<T>> r,     // (N)     kept by rms_norm_forward
                       float offset) {
  const int64_t C = x.cols();
  const auto v = detail::array(w.data, C) + T(offset);
  if (dx)
    detail::for_each_row(ctx, x.rows(), C, [&](int64_t n) {
      const auto xn = detail::array(x.row(n), C), dyn = detail::array(dy.row(n), C);
      const T rn = r.data[n], mean = (v * dyn * xn).mean() * rn * rn;
      detail::array(dx.row(n), C) = rn * (v * dyn - xn * mean);
    });
  if (dw)
    detail::for_columns(ctx, x.rows(), C, [&](int64_t c, int64_t size) {
      auto sum = detail::array(dw.data + c, size);
      for (int64_t n = 0; n < x.rows(); ++n)
        sum += detail::array(dy.row(n) + c, size) * detail::array(x.row(n) + c, size) * r.data[n];
    });
}

template <Scalar T>
void layer_norm_forward(Context<Cpu>& ctx,
                        View<T> y,                   // (N, C)
                        View<accumulate_t<T>> mean,  // (N)
                        View<accumulate_t<T>> r,     // (N)     1 / sqrt(variance + eps)
                        In<T> x,                     // (N, C)
                        In<T> w,                     // (C)     empty: ones
                        In<T> b,                     // (C)     empty: zeros
                        float eps) {
  const int64_t C = x.cols();
  detail::for_each_row(ctx, x.rows(), C, [&](int64_t n) {
    const auto xn = detail::array(x.row(n), C);
    auto yn = detail::array(y.row(n), C);
    const T m = mean.data[n] = xn.mean();
    r.data[n] = 1 / std::sqrt((xn - m).square().mean() + T(eps));
    yn = (xn - m) * r.data[n];
    if (w) yn *= detail::array(w.data, C);
    if (b) yn += detail::array(b.data, C);
  });
}

template <Scalar T>
void layer_norm_backward(Context<Cpu>& ctx,
                         View<T> dx,                // (N, C)  assigned
                         View<accumulate_t<T>> dw,  // (C)     added: a parameter's
                         View<accumulate_t<T>> db,  // (C)     added: a parameter's
                         In<T> dy,                  // (N, C)
                         In<T> x,                   // (N, C)
                         In<T> w,                   // (C)     empty: ones
                         In<accumulate_t<T>> mean,  // (N)     kept by layer_norm_forward
                         In<accumulate_t<T>> r) {   // (N)     likewise
  const int64_t C = x.cols();
  if (dx)
    detail::for_each_row(ctx, x.rows(), C, [&](int64_t n) {
      const T rn = r.data[n], m = mean.data[n];
      const auto xn = detail::array(x.row(n), C), dyn = detail::array(dy.row(n), C);
      auto dxn = detail::array(dx.row(n), C);
      if (w) dxn = dyn * detail::array(w.data, C);
      else dxn = dyn;
      const T sum = dxn.mean(), product = (dxn * (xn - m)).mean() * rn * rn;
      dxn = rn * (dxn - sum - (xn - m) * product);
    });
  if (dw || db)
    detail::for_columns(ctx, x.rows(), C, [&](int64_t c, int64_t size) {
      for (int64_t n = 0; n < x.rows(); ++n) {
        const auto dyn = detail::array(dy.row(n) + c, size), xn = detail::array(x.row(n) + c, size);
        if (dw) detail::array(dw.data + c, size) += dyn * (xn - mean.data[n]) * r.data[n];
        if (db) detail::array(db.data + c, size) += dyn;
      }
    });
}

}  // namespace ft::inline FTLIB_ABI
