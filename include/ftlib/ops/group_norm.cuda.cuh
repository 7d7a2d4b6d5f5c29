// ops/group_norm.cuda.cuh: norms over groups of channels on the GPU, forward and backward.
#pragma once
#include <ftlib/cuda/reduce.cuda.cuh>  // sum_groups, add_column_sums
#include <ftlib/ops/linear.cuda.cuh>   // RowsOf

#include <algorithm>  // std::clamp
#include <cmath>      // std::sqrt
#include <cstdint>    // UINT32_MAX
#include <memory>     // std::shared_ptr
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Of B samples of S rows and C channels in G groups.
template <class T> struct Groups {
  const T* x;
  const accumulate_t<T>*mean, *r;  // (B, G)
  int64_t B, S, C, G;
  uint32_t rows, each;  // S, and C / G: a division of 32 bits takes fewer registers than one of 64

  /// Of row n and channel c.
  __device__ int64_t of(int64_t n, int64_t c) const {
    return static_cast<uint32_t>(n) / rows * G + static_cast<uint32_t>(c) / each;
  }
};
template <class T>
Groups<T> groups_of(In<T> x, const accumulate_t<T>* mean, const accumulate_t<T>* r, int64_t G) {
  if (x.rows() > int64_t{UINT32_MAX})
    throw Error(str("group_norm: x ", x.shape, " has more rows than the GPU's kernels count"));
  return {x.data, mean, r, x.shape[0], x.shape[1], x.cols(), G, static_cast<uint32_t>(x.shape[1]),
          static_cast<uint32_t>(x.cols() / G)};
}
template <class T> struct SquaresOf {
  Groups<T> at;
  template <int V> __device__ void add(accumulate_t<T> (&sum)[V], int64_t n, int64_t c) const {
    const auto xs = load<V>(at.x + n * at.C + c);
    for (int k = 0; k < V; ++k) {
      const auto off = widen(xs.v[k]) - at.mean[at.of(n, c + k)];
      sum[k] += off * off;
    }
  }
};
/// dy z
template <class T> struct ProductsOf {
  Groups<T> at;
  const T* dy;
  template <int V> __device__ void add(accumulate_t<T> (&sum)[V], int64_t n, int64_t c) const {
    const auto xs = load<V>(at.x + n * at.C + c), dys = load<V>(dy + n * at.C + c);
    for (int k = 0; k < V; ++k) {
      const int64_t g = at.of(n, c + k);
      sum[k] += widen(dys.v[k]) * (widen(xs.v[k]) - at.mean[g]) * at.r[g];
    }
  }
};

// One thread a group: out = the mean of its channels' sums, each times w where there is one; or, with an eps,
// 1 / sqrt(mean + eps).
template <class T>
__global__ void __launch_bounds__(block_size)
    group_means_kernel(accumulate_t<T>* out, const accumulate_t<T>* sums, const T* w, int64_t count, int64_t C,
                       int64_t each, accumulate_t<T> places, accumulate_t<T> eps) {
  const int64_t i = blockIdx.x * int64_t{block_size} + threadIdx.x;
  if (i >= count) return;
  accumulate_t<T> sum = 0;
  for (int64_t c = i * each; c < (i + 1) * each; ++c) sum += sums[c] * (w ? widen(w[c % C]) : accumulate_t<T>(1));
  sum /= places;
  out[i] = eps < 0 ? sum : 1 / std::sqrt(sum + eps);
}

// y = (x - mean) r w + b. One warp a row, V elements a lane and load. Moves 2 B S C sizeof(T): bound by memory.
template <class T, int V>
__global__ void __launch_bounds__(block_size) group_norm_kernel(Groups<T> at, T* y, const T* w, const T* b) {
  const int64_t n = row();
  if (n >= at.B * at.S) return;
  for (int64_t c = lane() * V; c < at.C; c += 32 * V) {
    const auto xs = load<V>(at.x + n * at.C + c), ws = load<V>(w + c), bs = load<V>(b + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) {
      const int64_t g = at.of(n, c + k);
      out.v[k] = narrow<T>((widen(xs.v[k]) - at.mean[g]) * at.r[g] * widen(ws.v[k]) + widen(bs.v[k]));
    }
    store(y + n * at.C + c, out);
  }
}

// dx = r (dy w - q - z p), p and q the groups' means of dy w z and dy w. Moves 3 B S C sizeof(T).
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    group_norm_backward_kernel(Groups<T> at, T* dx, const T* dy, const T* w, const accumulate_t<T>* p,
                               const accumulate_t<T>* q) {
  const int64_t n = row();
  if (n >= at.B * at.S) return;
  for (int64_t c = lane() * V; c < at.C; c += 32 * V) {
    const auto xs = load<V>(at.x + n * at.C + c), dys = load<V>(dy + n * at.C + c), ws = load<V>(w + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) {
      const int64_t g = at.of(n, c + k);
      const auto z = (widen(xs.v[k]) - at.mean[g]) * at.r[g];
      out.v[k] = narrow<T>(at.r[g] * (widen(dys.v[k]) * widen(ws.v[k]) - q[g] - z * p[g]));
    }
    store(dx + n * at.C + c, out);
  }
}

/// out (B, C) = the sums over each sample's rows of what `of` gives. In parts of 128 rows or more, at most 256 of a
/// sample, and then those, so that one picture has blocks enough; the order depends on sizes alone.
template <class T, class Of>
void channel_sums(Context<Cuda>& ctx, Of of, accumulate_t<T>* out, const Groups<T>& at, bool packs) {
  using A = accumulate_t<T>;
  const int64_t parts = std::clamp<int64_t>(at.S / 128, 1, 256), length = ceil_div(at.S, parts);
  std::vector<int64_t> starts, samples;
  for (int64_t b = 0; b < at.B; ++b) {
    samples.push_back(b * parts);
    for (int64_t i = 0; i < parts; ++i) starts.push_back(b * at.S + std::min(at.S, i * length));
  }
  starts.push_back(at.B * at.S);
  samples.push_back(at.B * parts);
  const auto there = ctx.upload(starts), of_samples = ctx.upload(samples);
  const std::shared_ptr<void> memory = ctx.allocate(static_cast<std::size_t>(at.B * parts * at.C) * sizeof(A));
  A* const partial = static_cast<A*>(memory.get());
  if (packs) sum_groups<pack_size<T>, A>(ctx, of, partial, there.get(), at.B * parts, at.C);
  else sum_groups<1, A>(ctx, of, partial, there.get(), at.B * parts, at.C);
  sum_groups<1, A>(ctx, RowsOf<A>{partial, at.C}, out, of_samples.get(), at.B, at.C);
}
template <class T>
void group_means(Context<Cuda>& ctx, accumulate_t<T>* out, const accumulate_t<T>* sums, const T* w, const Groups<T>& at,
                 accumulate_t<T> eps = -1) {
  launch(group_means_kernel<T>, grid_of(ceil_div(at.B * at.G, block_size)), block_size, 0, ctx.stream(), out, sums, w,
         at.B * at.G, at.C, at.C / at.G, static_cast<accumulate_t<T>>(at.S * (at.C / at.G)), eps);
}

}  // namespace detail

template <Scalar T>
void group_norm_forward(Context<Cuda>& ctx,
                        View<T> y,                   // (B, S, C)
                        View<accumulate_t<T>> mean,  // (B, G)
                        View<accumulate_t<T>> r,     // (B, G)
                        In<T> x,                     // (B, S, C)
                        In<T> w,                     // (C)
                        In<T> bias,                  // (C)
                        float eps) {
  using A = accumulate_t<T>;
  const auto at = detail::groups_of<T>(x, mean.data, r.data, mean.cols());
  const bool packs = detail::rows_aligned16<T>(at.C, y.data, x.data, w.data, bias.data);
  const std::shared_ptr<void> memory = ctx.allocate(static_cast<std::size_t>(at.B * at.C) * sizeof(A));
  A* const sums = static_cast<A*>(memory.get());
  const T* const none = nullptr;
  detail::channel_sums<T>(ctx, detail::RowsOf<T>{x.data, at.C}, sums, at, packs);
  detail::group_means<T>(ctx, mean.data, sums, none, at);
  detail::channel_sums<T>(ctx, detail::SquaresOf<T>{at}, sums, at, packs);
  detail::group_means<T>(ctx, r.data, sums, none, at, static_cast<A>(eps));
  launch(packs ? detail::group_norm_kernel<T, detail::pack_size<T>> : detail::group_norm_kernel<T, 1>,
         detail::grid_of_rows(at.B * at.S), detail::block_size, 0, ctx.stream(), at, y.data, w.data, bias.data);
}

// The formulas are in ops/group_norm.hpp, where the rule is.
template <Scalar T>
void group_norm_backward(Context<Cuda>& ctx,
                         View<T> dx,                // (B, S, C)  assigned
                         View<accumulate_t<T>> dw,  // (C)        added: a parameter's
                         View<accumulate_t<T>> db,  // (C)        added: a parameter's
                         In<T> dy,                  // (B, S, C)
                         In<T> x,                   // (B, S, C)
                         In<accumulate_t<T>> mean,  // (B, G)
                         In<accumulate_t<T>> r,     // (B, G)
                         In<T> w) {                 // (C)
  using A = accumulate_t<T>;
  const auto at = detail::groups_of<T>(x, mean.data, r.data, mean.cols());
  const bool packs = detail::rows_aligned16<T>(at.C, dx.data, dy.data, x.data, w.data);
  const int64_t channels = at.B * at.C, groups = at.B * at.G;
  const std::shared_ptr<void> memory = ctx.allocate(static_cast<std::size_t>(2 * (channels + groups)) * sizeof(A));
  A *const p = static_cast<A*>(memory.get()), *const q = p + channels, *const mean_p = q + channels,
           *const mean_q = mean_p + groups;
  detail::channel_sums<T>(ctx, detail::ProductsOf<T>{at, dy.data}, p, at, packs);
  detail::channel_sums<T>(ctx, detail::RowsOf<T>{dy.data, at.C}, q, at, packs);
  if (dw) detail::add_column_sums<1, A>(ctx, detail::RowsOf<A>{p, at.C}, dw.data, at.B, at.C);
  if (db) detail::add_column_sums<1, A>(ctx, detail::RowsOf<A>{q, at.C}, db.data, at.B, at.C);
  if (!dx) return;
  detail::group_means<T>(ctx, mean_p, p, w.data, at);
  detail::group_means<T>(ctx, mean_q, q, w.data, at);
  launch(packs ? detail::group_norm_backward_kernel<T, detail::pack_size<T>> : detail::group_norm_backward_kernel<T, 1>,
         detail::grid_of_rows(at.B * at.S), detail::block_size, 0, ctx.stream(), at, dx.data, dy.data, w.data,
         static_cast<const A*>(mean_p), static_cast<const A*>(mean_q));
}

}  // namespace ft::inline FTLIB_ABI
