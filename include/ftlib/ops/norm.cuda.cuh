// ops/norm.cuda.cuh: RMSNorm and LayerNorm on the GPU, forward and backward, with what stands before and behind them.
#pragma once
#include <ftlib/ops/elementwise.cuda.cuh>  // group_of
#include <ftlib/ops/norm.shared.hpp>        // Norm
#include <ftlib/cuda/reduce.cuda.cuh>       // warp_sum, add_column_sums, sum_groups

#include <cmath>        // std::sqrt
#include <memory>       // std::shared_ptr
#include <type_traits>  // std::integral_constant

namespace ft::inline FTLIB_ABI {

namespace detail {

/// A norm as kernels take it; what is null is left out.
template <class T> struct NormPointers {
  const T *w, *b, *scale, *shift;
  const int64_t* starts;
  int64_t B;
  accumulate_t<T> eps, offset;

  NormPointers(const Norm<T>& norm, const int64_t* starts_on_device)
      : w(norm.w.data),
        b(norm.b.data),
        scale(norm.scale.data),
        shift(norm.shift.data),
        starts(starts_on_device),
        B(static_cast<int64_t>(norm.starts.size()) - 1),
        eps(static_cast<accumulate_t<T>>(norm.eps)),
        offset(static_cast<accumulate_t<T>>(norm.offset)) {}
};

/// What stands beside a norm: kernels are made for each, for what is not there would cost registers, and so warps.
enum class Beside { nothing, sum, modulation };

// Both kernels: one warp a row, V elements a lane and load: 16 bytes, or V = 1 where C or a pointer is not 16-byte
// aligned. Sums in float (double for double). A row is read again from the cache, as w, b, scale and shift are; loads
// ask for themselves whether w and b are there.

// s = x + y, rounded to T, and the norm of that. Moves 2 N C sizeof(T) + 4 N bytes (centred: 8 N), 4 N C sizeof(T) with
// y: bound by memory. The variance is of differences from the mean, so that it does not cancel.
template <class T, int V, bool centred, Beside beside>
__global__ void __launch_bounds__(block_size, beside == Beside::modulation ? 4 : 0)  // else it spills at 40
    norm_kernel(NormPointers<T> norm, T* h, T* s, accumulate_t<T>* mean, accumulate_t<T>* r, const T* x, const T* y,
                int64_t N, int64_t C) {
  using A = accumulate_t<T>;
  const int64_t n = row();
  if (n >= N) return;
  A sum = 0, m = 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    auto xs = load<V>(x + n * C + c);
    if constexpr (beside == Beside::sum) {
      const auto ys = load<V>(y + n * C + c);
      for (int k = 0; k < V; ++k) xs.v[k] = narrow<T>(widen(xs.v[k]) + widen(ys.v[k]));
      store(s + n * C + c, xs);
    }
    for (int k = 0; k < V; ++k) sum += centred ? widen(xs.v[k]) : widen(xs.v[k]) * widen(xs.v[k]);
  }
  const T* const in = beside == Beside::sum ? s : x;  // a lane reads what it has written itself
  if constexpr (centred) {
    m = warp_sum(sum) / static_cast<A>(C);
    sum = 0;
    for (int64_t c = lane() * V; c < C; c += 32 * V) {
      const auto xs = load<V>(in + n * C + c);
      for (int k = 0; k < V; ++k) sum += (widen(xs.v[k]) - m) * (widen(xs.v[k]) - m);
    }
  }
  const A rn = 1 / std::sqrt(warp_sum(sum) / static_cast<A>(C) + norm.eps);
  [[maybe_unused]] const int64_t g = beside == Beside::modulation ? group_of(n, norm.starts, norm.B) : 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(in + n * C + c);
    const auto ws = norm.w ? load<V>(norm.w + c) : xs, bs = norm.b ? load<V>(norm.b + c) : xs;
    [[maybe_unused]] Pack<T, V> scales, shifts;
    if constexpr (beside == Beside::modulation) {
      scales = load<V>(norm.scale + g * C + c);
      shifts = load<V>(norm.shift + g * C + c);
    }
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) {
      A v = (widen(xs.v[k]) - m) * rn;
      if (norm.w) v *= widen(ws.v[k]) + norm.offset;
      if (norm.b) v += widen(bs.v[k]);
      if constexpr (beside == Beside::modulation) v = v * (1 + widen(scales.v[k])) + widen(shifts.v[k]);
      out.v[k] = narrow<T>(v);
    }
    store(h + n * C + c, out);
  }
  if (lane() == 0) {
    if constexpr (centred) mean[n] = m;
    r[n] = rn;
  }
}

/// g = dh (1 + scale) (w + offset) of a row, columns c to c + V - 1; `scale` is the group's.
template <Beside beside, int V, class T>
__device__ void norm_gradient(accumulate_t<T> (&g)[V], const NormPointers<T>& norm, const T* dh, const T* scale,
                              int64_t c) {
  const auto dhs = load<V>(dh + c);
  const auto ws = norm.w ? load<V>(norm.w + c) : dhs;
  [[maybe_unused]] Pack<T, V> scales;
  if constexpr (beside == Beside::modulation) scales = load<V>(scale + c);
  for (int k = 0; k < V; ++k) {
    g[k] = widen(dhs.v[k]);
    if (norm.w) g[k] *= widen(ws.v[k]) + norm.offset;
    if constexpr (beside == Beside::modulation) g[k] *= 1 + widen(scales.v[k]);
  }
}

// dx = ds + r (g - mean(g) - z mean(g z)), without mean(g) where the norm is not centred. Moves 3 N C sizeof(T) + 4 N
// bytes (centred: 8 N), and N C sizeof(T) more with ds.
template <class T, int V, bool centred, Beside beside>
__global__ void __launch_bounds__(block_size, centred&& beside == Beside::nothing ? 4 : 0)  // else it spills at 40
    norm_backward_kernel(NormPointers<T> norm, T* dx, const T* dh, const T* ds, const T* s, const accumulate_t<T>* mean,
                         const accumulate_t<T>* r, int64_t N, int64_t C) {
  using A = accumulate_t<T>;
  const int64_t n = row();
  if (n >= N) return;
  const T* const scale = beside == Beside::modulation ? norm.scale + group_of(n, norm.starts, norm.B) * C : nullptr;
  const A m = centred ? mean[n] : A(0), rn = r[n];
  A sum = 0, product = 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(s + n * C + c);
    A g[V];
    norm_gradient<beside>(g, norm, dh + n * C, scale, c);
    for (int k = 0; k < V; ++k) {
      if constexpr (centred) sum += g[k];
      product += g[k] * (widen(xs.v[k]) - m);
    }
  }
  if constexpr (centred) sum = warp_sum(sum) / static_cast<A>(C);
  product = warp_sum(product) / static_cast<A>(C) * rn * rn;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(s + n * C + c);
    [[maybe_unused]] auto others = xs;
    if constexpr (beside == Beside::sum) others = load<V>(ds + n * C + c);
    A g[V];
    norm_gradient<beside>(g, norm, dh + n * C, scale, c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) {
      A v = rn * (g[k] - sum - (widen(xs.v[k]) - m) * product);
      if constexpr (beside == Beside::sum) v += widen(others.v[k]);
      out.v[k] = narrow<T>(v);
    }
    store(dx + n * C + c, out);
  }
}

template <class T> Beside beside_of(const Norm<T>& norm, const T* added) {
  if (added && norm.scale)
    throw Error("norm: both a sum before and a modulation behind it", "no kernel is made for it.");
  return added ? Beside::sum : norm.scale ? Beside::modulation : Beside::nothing;
}
/// f(centred, beside) with both as types.
template <class F> void with_norm(bool centred, Beside beside, F f) {
  const auto of_kind = [&](auto kind) {
    if (beside == Beside::sum) f(kind, std::integral_constant<Beside, Beside::sum>());
    else if (beside == Beside::modulation) f(kind, std::integral_constant<Beside, Beside::modulation>());
    else f(kind, std::integral_constant<Beside, Beside::nothing>());
  };
  if (centred) of_kind(std::true_type());
  else of_kind(std::false_type());
}

/// What row n gives to sums over rows: dh z, where null means are zeros; dh alone where s is null.
template <class T> struct NormProducts {
  const T *dh, *s;
  const accumulate_t<T>*mean, *r;
  int64_t C;
  template <int V> __device__ void add(accumulate_t<T> (&sum)[V], int64_t n, int64_t c) const {
    using A = accumulate_t<T>;
    const auto dhs = load<V>(dh + n * C + c);
    const auto xs = s ? load<V>(s + n * C + c) : dhs;
    const A m = mean ? mean[n] : A(0), rn = s ? r[n] : A(1);
    for (int k = 0; k < V; ++k) sum[k] += s ? widen(dhs.v[k]) * (widen(xs.v[k]) - m) * rn : widen(dhs.v[k]);
  }
};
template <class T>
void add_norm_sums(Context<Cuda>& ctx, View<accumulate_t<T>> to, const NormProducts<T>& of, int64_t N) {
  if (rows_aligned16<T>(of.C, of.dh, of.s)) add_column_sums<pack_size<T>>(ctx, of, to.data, N, of.C);
  else add_column_sums<1>(ctx, of, to.data, N, of.C);
}
/// The sums (B, C) over each group's rows, in memory that lives as long as the pointer.
template <class T>
std::shared_ptr<void> sum_norm_groups(Context<Cuda>& ctx, const NormProducts<T>& of, const NormPointers<T>& norm) {
  using A = accumulate_t<T>;
  const std::shared_ptr<void> sums = ctx.allocate(static_cast<std::size_t>(norm.B * of.C) * sizeof(A));
  A* const to = static_cast<A*>(sums.get());
  if (rows_aligned16<T>(of.C, of.dh, of.s)) sum_groups<pack_size<T>, A>(ctx, of, to, norm.starts, norm.B, of.C);
  else sum_groups<1, A>(ctx, of, to, norm.starts, norm.B, of.C);
  return sums;
}

// From p = sum of dh z and q = sum of dh over each group's rows, (B, C) each, or null where nobody needs them: dscale =
// p (w + offset) + q b, dshift = q; dw += (1 + scale) p and db += (1 + scale) q, summed over groups. One thread a
// column.
template <class T>
__global__ void __launch_bounds__(block_size)
    finish_norm_groups_kernel(NormPointers<T> norm, accumulate_t<T>* dw, accumulate_t<T>* db, T* dscale, T* dshift,
                              const accumulate_t<T>* p, const accumulate_t<T>* q, int64_t C) {
  using A = accumulate_t<T>;
  const int64_t c = blockIdx.x * int64_t{block_size} + threadIdx.x;
  if (c >= C) return;
  const A w = norm.w ? widen(norm.w[c]) + norm.offset : A(1), b = norm.b ? widen(norm.b[c]) : A(0);
  A of_w = 0, of_b = 0;
  for (int64_t i = c; i < norm.B * C; i += C) {
    const A pi = p ? p[i] : A(0), qi = q ? q[i] : A(0), factor = 1 + widen(norm.scale[i]);
    if (dscale) dscale[i] = narrow<T>(pi * w + qi * b);
    if (dshift) dshift[i] = narrow<T>(qi);
    of_w += factor * pi;
    of_b += factor * qi;
  }
  if (dw) dw[c] += of_w;
  if (db) db[c] += of_b;
}

}  // namespace detail

template <Scalar T>
void norm_forward(Context<Cuda>& ctx, const Norm<T>& norm,
                  View<T> h,                   // (N, C)
                  View<T> s,                   // (N, C)  x + y; empty where y is
                  View<accumulate_t<T>> mean,  // (N)     empty where the norm is not centred
                  View<accumulate_t<T>> r,     // (N)
                  In<T> x,                     // (N, C)
                  In<T> y) {                   // (N, C)  or empty
  using namespace detail;
  constexpr int V = pack_size<T>;
  const int64_t N = x.rows(), C = x.cols();
  const auto starts = norm.scale ? ctx.upload(norm.starts) : nullptr;
  const bool packs =
      rows_aligned16<T>(C, h.data, s.data, x.data, y.data, norm.w.data, norm.b.data, norm.scale.data, norm.shift.data);
  with_norm(norm.centred, beside_of(norm, y.data), [&](auto centred, auto beside) {
    launch(packs ? norm_kernel<T, V, centred, beside> : norm_kernel<T, 1, centred, beside>, grid_of_rows(N), block_size,
           0, ctx.stream(), NormPointers<T>(norm, starts.get()), h.data, s.data, mean.data, r.data, x.data, y.data, N,
           C);
  });
}

template <Scalar T>
void norm_backward(Context<Cuda>& ctx, const Norm<T>& norm,
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
  using namespace detail;
  using A = accumulate_t<T>;
  constexpr int V = pack_size<T>;
  const int64_t N = s.rows(), C = s.cols();
  const auto starts = norm.scale ? ctx.upload(norm.starts) : nullptr;
  const NormPointers<T> of(norm, starts.get());
  if (dx) {
    const bool packs = rows_aligned16<T>(C, dx.data, dh.data, ds.data, s.data, norm.w.data, norm.scale.data);
    with_norm(norm.centred, beside_of(norm, ds.data), [&](auto centred, auto beside) {
      launch(packs ? norm_backward_kernel<T, V, centred, beside> : norm_backward_kernel<T, 1, centred, beside>,
             grid_of_rows(N), block_size, 0, ctx.stream(), of, dx.data, dh.data, ds.data, s.data, mean.data, r.data, N,
             C);
    });
  }
  const NormProducts<T> with_z{dh.data, s.data, mean.data, r.data, C}, alone{dh.data, nullptr, nullptr, nullptr, C};
  if (!norm.scale) {
    if (dw) add_norm_sums(ctx, dw, with_z, N);
    if (db) add_norm_sums(ctx, db, alone, N);
    return;
  }
  std::shared_ptr<void> p, q;
  if (dw || dscale) p = sum_norm_groups(ctx, with_z, of);
  if (db || dshift || (dscale && norm.b)) q = sum_norm_groups(ctx, alone, of);
  if (!p && !q) return;
  launch(finish_norm_groups_kernel<T>, grid_of(ceil_div(C, block_size)), block_size, 0, ctx.stream(), of, dw.data,
         db.data, dscale.data, dshift.data, static_cast<const A*>(p.get()), static_cast<const A*>(q.get()), C);
}

}  // namespace ft::inline FTLIB_ABI
