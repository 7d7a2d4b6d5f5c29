// ops/norm.cpu.hpp: RMSNorm and LayerNorm on the CPU, forward and backward, with what stands before and behind them.
#pragma once
#include <ftlib/ops/elementwise.cpu.hpp>  // for_each_grouped_row, for_vectors
#include <ftlib/ops/norm.shared.hpp>      // Norm

#include <algorithm>    // std::fill
#include <cmath>        // std::sqrt
#include <type_traits>  // std::bool_constant
#include <vector>       // std::vector

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
  const T* const w = norm.w.data;
  const T offset = T(norm.offset), eps = T(norm.eps), size = T(C);
  detail::with_constant(norm.w && !norm.centred, [&](auto plain) {
    detail::for_each_grouped_row(ctx, norm.starts, C, [&](int64_t n, int64_t g) {
      if (y) detail::for_vectors<T>(0, C, [&](auto at) { at.store(s.row(n), at(x.row(n)) + at(y.row(n))); });
      const T* const sn = y ? s.row(n) : x.row(n);
      T* const hn = h.row(n);
      if constexpr (decltype(plain)::value) {
        const T squares = detail::sum_vectors<T>(C, [&](auto at) { return at(sn) * at(sn); });
        const T rn = r.data[n] = 1 / std::sqrt(squares / size + eps);
        detail::for_vectors<T>(0, C, [&](auto at) { at.store(hn, at(sn) * rn * (at(w) + offset)); });
      } else {
        T m = 0;
        if (norm.centred) m = mean.data[n] = detail::sum_vectors<T>(C, [&](auto at) { return at(sn); }) / size;
        const T squares = detail::sum_vectors<T>(C, [&](auto at) { return (at(sn) - m) * (at(sn) - m); });
        const T rn = r.data[n] = 1 / std::sqrt(squares / size + eps);
        detail::for_vectors<T>(0, C, [&](auto at) { at.store(hn, (at(sn) - m) * rn); });
        if (w) detail::for_vectors<T>(0, C, [&](auto at) { at.store(hn, at(hn) * (at(w) + offset)); });
      }
      if (norm.b) detail::for_vectors<T>(0, C, [&](auto at) { at.store(hn, at(hn) + at(norm.b.data)); });
      if (norm.scale)
        detail::for_vectors<T>(
            0, C, [&](auto at) { at.store(hn, at(hn) * (T(1) + at(norm.scale.row(g))) + at(norm.shift.row(g))); });
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
  const T* const w = norm.w.data;
  const T offset = T(norm.offset), size = T(C);
  if (dx)
    detail::with_constant(norm.w && !norm.centred && !norm.scale, [&](auto plain) {
      detail::for_each_grouped_row(ctx, norm.starts, C, [&](int64_t n, int64_t group) {
        const T rn = r.data[n];
        const T *const sn = s.row(n), *const dhn = dh.row(n);
        T* const dxn = dx.row(n);
        if constexpr (decltype(plain)::value) {
          const T sum = detail::sum_vectors<T>(C, [&](auto at) { return (at(w) + offset) * at(dhn) * at(sn); });
          const T product = sum / size * rn * rn;
          detail::for_vectors<T>(0, C,
                                 [&](auto at) { at.store(dxn, rn * ((at(w) + offset) * at(dhn) - at(sn) * product)); });
        } else {
          detail::for_vectors<T>(0, C, [&](auto at) {  // g, until the row's means are known
            auto gn = at(dhn);
            if (w) gn *= at(w) + offset;
            if (norm.scale) gn *= T(1) + at(norm.scale.row(group));
            at.store(dxn, gn);
          });
          T m = 0, sum = 0;
          if (norm.centred) {
            m = mean.data[n];
            sum = detail::sum_vectors<T>(C, [&](auto at) { return at(dxn); }) / size;
          }
          const T dot = detail::sum_vectors<T>(C, [&](auto at) { return at(dxn) * (at(sn) - m); });
          const T product = dot / size * rn * rn;
          detail::for_vectors<T>(0, C, [&](auto at) { at.store(dxn, rn * (at(dxn) - sum - (at(sn) - m) * product)); });
        }
        if (ds) detail::for_vectors<T>(0, C, [&](auto at) { at.store(dxn, at(dxn) + at(ds.row(n))); });
      });
    });
  const bool of_z = dw || dscale, of_one = db || dshift || (dscale && norm.b);
  if (!of_z && !of_one) return;
  detail::with_constant(norm.centred, [&](auto centred) {
    // Each thread owns some columns, so the order of a sum over rows does not depend on timing.
    parallel_for(ctx.pool(), C, 16 + 8192 / (s.rows() + 1), [&](int64_t begin, int64_t end) {
      std::vector<T> sums(static_cast<std::size_t>(2 * (end - begin)));
      T *const p = sums.data() - begin, *const q = p + (end - begin);  // by column
      const auto columns = [&](auto f) { detail::for_vectors<T>(begin, end, f); };
      for (std::size_t group = 0; group + 1 < norm.starts.size(); ++group) {
        const auto g = static_cast<int64_t>(group);
        std::fill(sums.begin(), sums.end(), T(0));
        for (int64_t n = norm.starts[group]; n < norm.starts[group + 1]; ++n) {
          const T *const dhn = dh.row(n), *const sn = s.row(n), rn = r.data[n];
          if constexpr (decltype(centred)::value) {
            const T m = mean.data[n];
            if (of_z) columns([&](auto at) { at.store(p, at(p) + at(dhn) * (at(sn) - m) * rn); });
          } else {
            if (of_z) columns([&](auto at) { at.store(p, at(p) + at(dhn) * at(sn) * rn); });
          }
          if (of_one) columns([&](auto at) { at.store(q, at(q) + at(dhn)); });
        }
        if (dscale)
          columns([&](auto at) {
            auto v = at(p);
            if (w) v *= at(w) + offset;
            if (norm.b) v += at(q) * at(norm.b.data);
            at.store(dscale.row(g), v);
          });
        if (dshift) columns([&](auto at) { at.store(dshift.row(g), at(q)); });
        if (norm.scale)
          columns([&](auto at) {
            const auto factor = T(1) + at(norm.scale.row(g));
            at.store(p, at(p) * factor);
            at.store(q, at(q) * factor);
          });
        if (dw) columns([&](auto at) { at.store(dw.data, at(dw.data) + at(p)); });
        if (db) columns([&](auto at) { at.store(db.data, at(db.data) + at(q)); });
      }
    });
  });
}

}  // namespace ft::inline FTLIB_ABI
