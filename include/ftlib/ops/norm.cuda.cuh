// ops/norm.cuda.cuh: RMSNorm and LayerNorm on the GPU, forward and backward.
#pragma once
#include <ftlib/ops/reduce.cuda.cuh>  // warp_sum, add_column_sums

#include <cmath>  // std::sqrt

namespace ft::inline FTLIB_ABI {

namespace detail {

// All four: one warp a row, V elements a lane and load: 16 bytes, or V = 1 where C or a pointer is not 16-byte aligned.
// Sums in float (double for double). A row is read twice, the second time from the cache; w comes from the cache.

// Moves 2 N C sizeof(T) + 4 N bytes for 4 N C FLOP: bound by memory.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    rms_norm_kernel(T* y, accumulate_t<T>* r, const T* x, const T* w, int64_t N, int64_t C, float eps, float offset) {
  using A = accumulate_t<T>;
  const int64_t n = row();
  if (n >= N) return;
  A sum = 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(x + n * C + c);
    for (int k = 0; k < V; ++k) sum += widen(xs.v[k]) * widen(xs.v[k]);
  }
  const A rn = 1 / std::sqrt(warp_sum(sum) / static_cast<A>(C) + static_cast<A>(eps));
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(x + n * C + c), ws = load<V>(w + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) out.v[k] = narrow<T>(widen(xs.v[k]) * rn * (widen(ws.v[k]) + static_cast<A>(offset)));
    store(y + n * C + c, out);
  }
  if (lane() == 0) r[n] = rn;
}

// dx = r (v dy - x r^2 mean(v dy x)), v = w + offset. Moves 3 N C sizeof(T) + 4 N bytes.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    rms_norm_backward_kernel(T* dx, const T* dy, const T* x, const T* w, const accumulate_t<T>* r, int64_t N, int64_t C,
                             float offset) {
  using A = accumulate_t<T>;
  const int64_t n = row();
  if (n >= N) return;
  const A rn = r[n];
  A sum = 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto dys = load<V>(dy + n * C + c), xs = load<V>(x + n * C + c), ws = load<V>(w + c);
    for (int k = 0; k < V; ++k) sum += (widen(ws.v[k]) + static_cast<A>(offset)) * widen(dys.v[k]) * widen(xs.v[k]);
  }
  const A mean = warp_sum(sum) / static_cast<A>(C) * rn * rn;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto dys = load<V>(dy + n * C + c), xs = load<V>(x + n * C + c), ws = load<V>(w + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k)
      out.v[k] = narrow<T>(rn * ((widen(ws.v[k]) + static_cast<A>(offset)) * widen(dys.v[k]) - widen(xs.v[k]) * mean));
    store(dx + n * C + c, out);
  }
}

// Null w: ones; null b: zeros. The variance is of differences from the mean, so that it does not cancel.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    layer_norm_kernel(T* y, accumulate_t<T>* mean, accumulate_t<T>* r, const T* x, const T* w, const T* b, int64_t N,
                      int64_t C, float eps) {
  using A = accumulate_t<T>;
  const int64_t n = row();
  if (n >= N) return;
  A sum = 0, squares = 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(x + n * C + c);
    for (int k = 0; k < V; ++k) sum += widen(xs.v[k]);
  }
  const A m = warp_sum(sum) / static_cast<A>(C);
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(x + n * C + c);
    for (int k = 0; k < V; ++k) squares += (widen(xs.v[k]) - m) * (widen(xs.v[k]) - m);
  }
  const A rn = 1 / std::sqrt(warp_sum(squares) / static_cast<A>(C) + static_cast<A>(eps));
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(x + n * C + c);
    const auto ws = w ? load<V>(w + c) : xs, bs = b ? load<V>(b + c) : xs;
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) {
      A v = (widen(xs.v[k]) - m) * rn;
      if (w) v *= widen(ws.v[k]);
      if (b) v += widen(bs.v[k]);
      out.v[k] = narrow<T>(v);
    }
    store(y + n * C + c, out);
  }
  if (lane() == 0) {
    mean[n] = m;
    r[n] = rn;
  }
}

// With g = w dy and z = (x - mean) r: dx = r (g - mean(g) - z mean(g z)). Moves 3 N C sizeof(T) + 8 N bytes.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    layer_norm_backward_kernel(T* dx, const T* dy, const T* x, const T* w, const accumulate_t<T>* mean,
                               const accumulate_t<T>* r, int64_t N, int64_t C) {
  using A = accumulate_t<T>;
  const int64_t n = row();
  if (n >= N) return;
  const A m = mean[n], rn = r[n];
  A sum = 0, product = 0;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto dys = load<V>(dy + n * C + c), xs = load<V>(x + n * C + c);
    const auto ws = w ? load<V>(w + c) : xs;
    for (int k = 0; k < V; ++k) {
      const A g = w ? widen(dys.v[k]) * widen(ws.v[k]) : widen(dys.v[k]);
      sum += g;
      product += g * (widen(xs.v[k]) - m);
    }
  }
  sum = warp_sum(sum) / static_cast<A>(C);
  product = warp_sum(product) / static_cast<A>(C) * rn * rn;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto dys = load<V>(dy + n * C + c), xs = load<V>(x + n * C + c);
    const auto ws = w ? load<V>(w + c) : xs;
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) {
      const A g = w ? widen(dys.v[k]) * widen(ws.v[k]) : widen(dys.v[k]);
      out.v[k] = narrow<T>(rn * (g - sum - (widen(xs.v[k]) - m) * product));
    }
    store(dx + n * C + c, out);
  }
}

/// What row n gives to dw and db: dy (x - mean) r, where null means are zeros; dy alone where x is null.
template <class T> struct NormWeight {
  const T *dy, *x;
  const accumulate_t<T>*mean, *r;
  int64_t C;
  template <int V> __device__ void add(accumulate_t<T> (&sum)[V], int64_t n, int64_t c) const {
    using A = accumulate_t<T>;
    const auto dys = load<V>(dy + n * C + c);
    const auto xs = x ? load<V>(x + n * C + c) : dys;
    const A m = mean ? mean[n] : A(0), rn = x ? r[n] : A(1);
    for (int k = 0; k < V; ++k) sum[k] += x ? widen(dys.v[k]) * (widen(xs.v[k]) - m) * rn : widen(dys.v[k]);
  }
};
template <class T>
void add_norm_weight(Context<Cuda>& ctx, View<accumulate_t<T>> dw, const NormWeight<T>& of, int64_t N) {
  if (rows_aligned16<T>(of.C, of.dy, of.x)) add_column_sums<pack_size<T>>(ctx, of, dw.data, N, of.C);
  else add_column_sums<1>(ctx, of, dw.data, N, of.C);
}

}  // namespace detail

template <Scalar T>
void rms_norm_forward(Context<Cuda>& ctx,
                      View<T> y,                // (N, C)
                      View<accumulate_t<T>> r,  // (N)     1 / sqrt(mean(x^2) + eps)
                      In<T> x,                  // (N, C)
                      In<T> w,                  // (C)
                      float eps, float offset) {
  constexpr int V = detail::pack_size<T>;
  const int64_t N = x.rows(), C = x.cols();
  launch(detail::rows_aligned16<T>(C, y.data, x.data, w.data) ? detail::rms_norm_kernel<T, V>
                                                              : detail::rms_norm_kernel<T, 1>,
         detail::grid_of_rows(N), detail::block_size, 0, ctx.stream(), y.data, r.data, x.data, w.data, N, C, eps,
         offset);
}

template <Scalar T>
void rms_norm_backward(Context<Cuda>& ctx,
                       View<T> dx,                // (N, C)  assigned
                       View<accumulate_t<T>> dw,  // (C)     added: a parameter's
                       In<T> dy,                  // (N, C)
                       In<T> x,                   // (N, C)
                       In<T> w,                   // (C)
                       In<accumulate_t<T>> r,     // (N)     kept by rms_norm_forward
                       float offset) {
  constexpr int V = detail::pack_size<T>;
  const int64_t N = x.rows(), C = x.cols();
  if (dx)
    launch(detail::rows_aligned16<T>(C, dx.data, dy.data, x.data, w.data) ? detail::rms_norm_backward_kernel<T, V>
                                                                          : detail::rms_norm_backward_kernel<T, 1>,
           detail::grid_of_rows(N), detail::block_size, 0, ctx.stream(), dx.data, dy.data, x.data, w.data, r.data, N, C,
           offset);
  if (dw) detail::add_norm_weight<T>(ctx, dw, {dy.data, x.data, nullptr, r.data, C}, N);
}

template <Scalar T>
void layer_norm_forward(Context<Cuda>& ctx,
                        View<T> y,                   // (N, C)
                        View<accumulate_t<T>> mean,  // (N)
                        View<accumulate_t<T>> r,     // (N)     1 / sqrt(variance + eps)
                        In<T> x,                     // (N, C)
                        In<T> w,                     // (C)     empty: ones
                        In<T> b,                     // (C)     empty: zeros
                        float eps) {
  constexpr int V = detail::pack_size<T>;
  const int64_t N = x.rows(), C = x.cols();
  launch(detail::rows_aligned16<T>(C, y.data, x.data, w.data, b.data) ? detail::layer_norm_kernel<T, V>
                                                                      : detail::layer_norm_kernel<T, 1>,
         detail::grid_of_rows(N), detail::block_size, 0, ctx.stream(), y.data, mean.data, r.data, x.data, w.data,
         b.data, N, C, eps);
}

template <Scalar T>
void layer_norm_backward(Context<Cuda>& ctx,
                         View<T> dx,                // (N, C)  assigned
                         View<accumulate_t<T>> dw,  // (C)     added: a parameter's
                         View<accumulate_t<T>> db,  // (C)     added: a parameter's
                         In<T> dy,                  // (N, C)
                         In<T> x,                   // (N, C)
                         In<T> w,                   // (C)     empty: ones
                         In<accumulate_t<T>> mean,  // (N)     kept by layer_norm_forward
                         In<accumulate_t<T>> r) {   // (N)     likewise
  constexpr int V = detail::pack_size<T>;
  const int64_t N = x.rows(), C = x.cols();
  if (dx)
    launch(detail::rows_aligned16<T>(C, dx.data, dy.data, x.data, w.data) ? detail::layer_norm_backward_kernel<T, V>
                                                                          : detail::layer_norm_backward_kernel<T, 1>,
           detail::grid_of_rows(N), detail::block_size, 0, ctx.stream(), dx.data, dy.data, x.data, w.data, mean.data,
           r.data, N, C);
  if (dw) detail::add_norm_weight<T>(ctx, dw, {dy.data, x.data, mean.data, r.data, C}, N);
  if (db) detail::add_norm_weight<T>(ctx, db, {dy.data, nullptr, nullptr, nullptr, C}, N);
}

}  // namespace ft::inline FTLIB_ABI
