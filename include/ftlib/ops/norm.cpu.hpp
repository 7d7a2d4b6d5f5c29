// ops/norm.cpu.hpp: RMSNorm on the CPU, forward and backward.
#pragma once
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/tensor.hpp>       // View

#include <cmath>       // std::sqrt
#include <Eigen/Core>  // row-wise arithmetic
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
inline void check_norm(const char* op, const Shape& x, const Shape& w) {
  if (x.rank() < 1 || w.rank() != 1 || x.back() != w[0])
    throw Error(str(op, ": x ", x, " does not fit weight ", w, ": last axes differ"),
                "the weight is one value for each element of a row.");
}
/// n elements at p as an Eigen array.
template <class T> auto array(T* p, int64_t n) {
  using Array = Eigen::Array<std::remove_const_t<T>, Eigen::Dynamic, 1>;
  return Eigen::Map<std::conditional_t<std::is_const_v<T>, const Array, Array>>(p, n);
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
  parallel_for(ctx.pool(), x.rows(), 1 + 8192 / C, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const auto xn = detail::array(x.row(n), C);
      r.data[n] = 1 / std::sqrt(xn.square().mean() + T(eps));
      detail::array(y.row(n), C) = xn * r.data[n] * v;
    }
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
    parallel_for(ctx.pool(), x.rows(), 1 + 8192 / C, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const auto xn = detail::array(x.row(n), C), dyn = detail::array(dy.row(n), C);
        const T rn = r.data[n], mean = (v * dyn * xn).mean() * rn * rn;
        detail::array(dx.row(n), C) = rn * (v * dyn - xn * mean);
      }
    });
  if (dw)  // each thread owns some columns, so the sum's order does not depend on timing
    parallel_for(ctx.pool(), C, 16, [&](int64_t begin, int64_t end) {
      auto sum = detail::array(dw.data + begin, end - begin);
      for (int64_t n = 0; n < x.rows(); ++n)
        sum += detail::array(dy.row(n) + begin, end - begin) * detail::array(x.row(n) + begin, end - begin) * r.data[n];
    });
}

}  // namespace ft::inline FTLIB_ABI
