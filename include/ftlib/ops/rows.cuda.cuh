// ops/rows.cuda.cuh: rows in a new order, and means of groups of rows, on the GPU, forward and backward.
#pragma once
#include <ftlib/ops/elementwise.cuda.cuh>  // group_of, sum_groups

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

// Row rows[i] - first of `there`, where that is one of its N rows, and row i of `here`: the one becomes the other, or
// is added to. One warp a row, V elements a lane and load. No row is taken twice, so no two warps write one.
enum class Take { forward, backward };
template <Take way, class T, int V>
__global__ void __launch_bounds__(block_size)
    take_rows_kernel(T* to, const T* from, const int32_t* rows, int64_t count, int64_t first, int64_t N, int64_t C) {
  const int64_t i = row();
  if (i >= count) return;
  const int64_t there = rows[i] - first;
  if (there < 0 || there >= N) return;
  T* const out = to + (way == Take::forward ? i : there) * C;
  const T* const in = from + (way == Take::forward ? there : i) * C;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto xs = load<V>(in + c);
    Pack<T, V> ys;
    if (way == Take::backward) ys = load<V>(out + c);
    for (int k = 0; k < V; ++k) ys.v[k] = way == Take::forward ? xs.v[k] : narrow<T>(widen(ys.v[k]) + widen(xs.v[k]));
    store(out + c, ys);
  }
}
template <Take way, class T>
void take_rows(Context<Cuda>& ctx, T* to, const T* from, const std::vector<int32_t>& rows, int64_t first, int64_t N,
               int64_t C) {
  if (rows.empty()) return;
  const auto on_device = ctx.upload(rows);
  const auto count = static_cast<int64_t>(rows.size());
  launch(rows_aligned16<T>(C, to, from) ? take_rows_kernel<way, T, pack_size<T>> : take_rows_kernel<way, T, 1>,
         grid_of_rows(count), block_size, 0, ctx.stream(), to, from, on_device.get(), count, first, N, C);
}

/// What row n gives to its group's mean. A division here would be a call, for which registers are spilled.
template <class T> struct ShareOfMean {
  const T* x;
  const int64_t* starts;
  const accumulate_t<T>* shares;  // (B)  1 / rows of the group
  int64_t B, C;
  template <int V> __device__ void add(accumulate_t<T> (&sum)[V], int64_t n, int64_t c) const {
    const auto share = shares[group_of(n, starts, B)];
    const auto xs = load<V>(x + n * C + c);
    for (int k = 0; k < V; ++k) sum[k] += share * widen(xs.v[k]);
  }
};

// dx[n] = dy[g] / rows of g, the group of n. One warp a row, V elements a lane and load.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    mean_rows_backward_kernel(T* dx, const T* dy, const int64_t* starts, int64_t B, int64_t N, int64_t C) {
  const int64_t n = row();
  if (n >= N) return;
  const int64_t g = group_of(n, starts, B);
  const auto share = 1 / static_cast<accumulate_t<T>>(starts[g + 1] - starts[g]);
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto dys = load<V>(dy + g * C + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) out.v[k] = narrow<T>(widen(dys.v[k]) * share);
    store(dx + n * C + c, out);
  }
}

}  // namespace detail

/// y[i] = x[rows[i] - first] where that is a row of x; other rows of y are left.
template <Scalar T>
void take_rows_forward(Context<Cuda>& ctx,
                       View<T> y,  // (n, C)  assigned
                       In<T> x,    // (N, C)
                       int64_t first, const std::vector<int32_t>& rows) {
  detail::take_rows<detail::Take::forward>(ctx, y.data, x.data, rows, first, x.rows(), x.cols());
}

template <Scalar T>
void take_rows_backward(Context<Cuda>& ctx, Write write,
                        View<T> dx,  // (N, C)  assigned or added, as `write` says
                        In<T> dy,    // (n, C)
                        int64_t first, const std::vector<int32_t>& rows) {
  if (write == Write::assign) ctx.zero(dx.data, static_cast<std::size_t>(dx.count()) * sizeof(T));
  detail::take_rows<detail::Take::backward>(ctx, dx.data, dy.data, rows, first, dx.rows(), dx.cols());
}

template <Scalar T>
void mean_rows_forward(Context<Cuda>& ctx,
                       View<T> y,                             // (B, C)  assigned
                       In<T> x,                               // (N, C)
                       const std::vector<int64_t>& starts) {  // (B + 1)
  const auto on_device = ctx.upload(starts);
  const int64_t B = y.rows(), C = y.cols();
  std::vector<accumulate_t<T>> shares;
  for (std::size_t g = 1; g < starts.size(); ++g)
    shares.push_back(1 / static_cast<accumulate_t<T>>(starts[g] - starts[g - 1]));
  const auto shares_there = ctx.upload(shares);
  const detail::ShareOfMean<T> of{x.data, on_device.get(), shares_there.get(), B, C};
  if (detail::rows_aligned16<T>(C, x.data))
    detail::sum_groups<detail::pack_size<T>, accumulate_t<T>>(ctx, of, y.data, on_device.get(), B, C);
  else detail::sum_groups<1, accumulate_t<T>>(ctx, of, y.data, on_device.get(), B, C);
}

template <Scalar T>
void mean_rows_backward(Context<Cuda>& ctx,
                        View<T> dx,                            // (N, C)  assigned
                        In<T> dy,                              // (B, C)
                        const std::vector<int64_t>& starts) {  // (B + 1)
  const auto on_device = ctx.upload(starts);
  const int64_t N = dx.rows(), C = dx.cols();
  launch(detail::rows_aligned16<T>(C, dx.data, dy.data) ? detail::mean_rows_backward_kernel<T, detail::pack_size<T>>
                                                        : detail::mean_rows_backward_kernel<T, 1>,
         detail::grid_of_rows(N), detail::block_size, 0, ctx.stream(), dx.data, dy.data, on_device.get(), dy.rows(), N,
         C);
}

}  // namespace ft::inline FTLIB_ABI
