// ops/norm.cpu.hpp: RMSNorm and LayerNorm on the CPU, forward and backward, with what stands before and behind them.
#pragma once
#include <ftlib/ops/elementwise.cpu.hpp>  // for_each_grouped_row
#include <ftlib/ops/norm.shared.hpp>      // Norm

#include <cmath>        // std::sqrt
#include <Eigen/Core>   // Eigen::Array
#include <type_traits>  // std::bool_constant

namespace ft::inline FTLIB_ABI {

namespace detail {
/// f(std::true_type) or f(std::false_type). Rows of 64 are so short that asking in each of them tells.
template <class F> void with_constant(bool condition, F f) {
  if (condition) f(std::true_type{});
  else f(std::false_type{});
}
}  // namespace detail

template <Scalar T>
void norm_forward(Context<Cpu>& ctx, const Norm<T>& norm,
                  View<T> h,                   // (N, C)
                  View<T> s,                   // (N, C)  x + y; empty where y is
                  View<accumulate_t<T>> mean,  // (N)     empty where the norm is not centred
                  View<accumulate_t<T>> r,     // (N)
                  In<T> x,                     // (N, C)
                  In<T> y) {                   // (N, C)  or empty
  const int64_t C = x.cols();
  const auto v = detail::array(norm.w.data, C) + T(norm.offset);
  const T* const sums = y ? s.data : x.data;
  detail::with_constant(norm.w && !norm.centred, [&](auto plain) {
    detail::for_each_grouped_row(ctx, norm.starts, C, [&](int64_t n, int64_t g) {
      if (y) detail::array(s.row(n), C) = detail::array(x.row(n), C) + detail::array(y.row(n), C);
      const auto sn = detail::array(sums + n * C, C);
      auto hn = detail::array(h.row(n), C);
      if constexpr (decltype(plain)::value) {
        r.data[n] = 1 / std::sqrt(sn.square().mean() + T(norm.eps));
        hn = sn * r.data[n] * v;
      } else {
        const T m = norm.centred ? mean.data[n] = sn.mean() : T(0);
        r.data[n] = 1 / std::sqrt((sn - m).square().mean() + T(norm.eps));
        hn = (sn - m) * r.data[n];
        if (norm.w) hn *= v;
      }
      if (norm.b) hn += detail::array(norm.b.data, C);
      if (norm.scale) hn = hn * (1 + detail::array(norm.scale.row(g), C)) + detail::array(norm.shift.row(g), C);
    });
  });
}

// The formulas, with g, p and q, are in ops/norm.hpp, where the rule is.
template <Scalar T>
void norm_backward(Context<Cpu>& ctx, const Norm<T>& norm,
                   View<T> dx,                // (N, C)  assigned; y's is the same
                   View<accumulate_t<T>> dw,  // (C)     added: a parameter's
                   View<accumulate_t<T>> db,  // (C)     added: a parameter's
                   View<T> dscale,            // (B, C)  assigned
                   View<T> dshift,            // (B, C)  assigned
                   In<T> dh,                  // (N, C)
                   In<T> ds,                  // (N, C)  of s from elsewhere; empty: nothing
                   In<T> s,                   // (N, C)
                   In<accumulate_t<T>> mean,  // (N)     kept by norm_forward; empty where the norm is not centred
                   In<accumulate_t<T>> r) {   // (N)     likewise
  const int64_t C = s.cols();
  const auto v = detail::array(norm.w.data, C) + T(norm.offset);
  if (dx)
    detail::with_constant(norm.w && !norm.centred && !norm.scale, [&](auto plain) {
      detail::for_each_grouped_row(ctx, norm.starts, C, [&](int64_t n, int64_t group) {
        const T rn = r.data[n];
        const auto sn = detail::array(s.row(n), C), dhn = detail::array(dh.row(n), C);
        auto dxn = detail::array(dx.row(n), C);
        if constexpr (decltype(plain)::value) {
          const T product = (v * dhn * sn).mean() * rn * rn;
          dxn = rn * (v * dhn - sn * product);
        } else {
          if (norm.w) dxn = dhn * v;  // g, until the row's means are known
          else dxn = dhn;
          if (norm.scale) dxn *= 1 + detail::array(norm.scale.row(group), C);
          const T m = norm.centred ? mean.data[n] : T(0), sum = norm.centred ? dxn.mean() : T(0);
          const T product = (dxn * (sn - m)).mean() * rn * rn;
          dxn = rn * (dxn - sum - (sn - m) * product);
        }
        if (ds) dxn += detail::array(ds.row(n), C);
      });
    });
  const bool of_z = dw || dscale, of_one = db || dshift || (dscale && norm.b);
  if (!of_z && !of_one) return;
  detail::with_constant(norm.centred, [&](auto centred) {
    // Each thread owns some columns, so the order of a sum over rows does not depend on timing.
    parallel_for(ctx.pool(), C, 16 + 8192 / (s.rows() + 1), [&](int64_t begin, int64_t end) {
      const int64_t size = end - begin;
      const auto part = [&](const auto& view, std::size_t row) {
        return detail::array(view.data + static_cast<int64_t>(row) * C + begin, size);
      };
      Eigen::Array<T, Eigen::Dynamic, 1> p(size), q(size);
      for (std::size_t g = 0; g + 1 < norm.starts.size(); ++g) {
        p.setZero();
        q.setZero();
        for (int64_t n = norm.starts[g]; n < norm.starts[g + 1]; ++n) {
          const auto dhn = detail::array(dh.row(n) + begin, size), sn = detail::array(s.row(n) + begin, size);
          if constexpr (decltype(centred)::value) {
            if (of_z) p += dhn * (sn - mean.data[n]) * r.data[n];
          } else {
            if (of_z) p += dhn * sn * r.data[n];
          }
          if (of_one) q += dhn;
        }
        if (dscale) {
          if (norm.w) part(dscale, g) = p * (part(norm.w, 0) + T(norm.offset));
          else part(dscale, g) = p;
          if (norm.b) part(dscale, g) += q * part(norm.b, 0);
        }
        if (dshift) part(dshift, g) = q;
        if (norm.scale) {
          p *= 1 + part(norm.scale, g);
          q *= 1 + part(norm.scale, g);
        }
        if (dw) part(dw, 0) += p;
        if (db) part(db, 0) += q;
      }
    });
  });
}

}  // namespace ft::inline FTLIB_ABI
