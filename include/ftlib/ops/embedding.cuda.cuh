// ops/embedding.cuda.cuh: the embedding look-up on the GPU, forward and backward.
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>    // load, store
#include <ftlib/tensor/stored.cuda.cuh>  // dequantise_blocks, blocks_of

#include <algorithm>  // std::stable_sort
#include <numeric>    // std::iota
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

// One block a row: y[n] = scale w[ids[n]]. V elements a thread and load. Reads N rows of w and writes y.
template <class T, class W, int V>
__global__ void __launch_bounds__(128)
    embedding_kernel(T* y, const W* w, const int32_t* ids, int64_t C, accumulate_t<T> scale) {
  using A = accumulate_t<T>;
  const int64_t n = blockIdx.x;
  const W* const from = w + ids[n] * C;
  for (int64_t c = threadIdx.x * V; c < C; c += 128 * V) {
    const auto ws = load<V>(from + c);
    Pack<T, V> out;
    for (int k = 0; k < V; ++k) out.v[k] = narrow<T>(scale * static_cast<A>(widen(ws.v[k])));
    store(y + n * C + c, out);
  }
}

// One block a token that occurs: dw[id] += scale (dy of its first row + dy of its second + ...). Rows of a token are
// added by one thread in their order, so nothing is atomic.
template <class T, int V>
__global__ void __launch_bounds__(128)
    embedding_backward_kernel(accumulate_t<T>* dw, const T* dy, const int32_t* ids, const int32_t* first,
                              const int32_t* rows, int64_t C, accumulate_t<T> scale) {
  using A = accumulate_t<T>;
  const int32_t begin = first[blockIdx.x], end = first[blockIdx.x + 1];
  A* const to = dw + int64_t{ids[rows[begin]]} * C;
  for (int64_t c = threadIdx.x * V; c < C; c += 128 * V) {
    auto sum = load<V>(to + c);
    for (int32_t i = begin; i < end; ++i) {
      const auto dys = load<V>(dy + int64_t{rows[i]} * C + c);
      for (int k = 0; k < V; ++k) sum.v[k] += scale * widen(dys.v[k]);
    }
    store(to + c, sum);
  }
}

}  // namespace detail

template <Scalar T>
void embedding_forward(Context<Cuda>& ctx,
                       View<T> y,                        // (N, C)  assigned
                       const Stored<Cuda>& w,            // (V, C)
                       const std::vector<int32_t>& ids,  // (N)
                       float scale) {
  const auto on_device = ctx.upload(ids);
  const auto factor = static_cast<accumulate_t<T>>(scale);
  detail::with_dtype(w.type, [&]<DType type>() {
    if constexpr (is_quantised(type)) {
      detail::dequantise_blocks<type>(ctx, y, w, on_device.get(), factor);
    } else {
      using W = typename detail::BlockOf<type>::Block;
      constexpr int V = detail::pack_size<T, W>;
      const W* const from = detail::blocks_of<type>(w);
      const bool packs = y.cols() % V == 0 && detail::aligned16(y.data, from);
      launch(packs ? detail::embedding_kernel<T, W, V> : detail::embedding_kernel<T, W, 1>, detail::grid_of(y.rows()),
             128, 0, ctx.stream(), y.data, from, on_device.get(), y.cols(), factor);
    }
  });
}

template <Scalar T>
void embedding_backward(Context<Cuda>& ctx,
                        View<accumulate_t<T>> dw,         // (V, C)  added: a parameter's
                        View<const T> dy,                 // (N, C)
                        const std::vector<int32_t>& ids,  // (N)
                        float scale) {
  if (!dw || ids.empty()) return;
  const int64_t C = dy.cols();
  std::vector<int32_t> rows(ids.size()), first;  // rows by token, and where each token's begin
  std::iota(rows.begin(), rows.end(), 0);
  const auto id = [&](int32_t n) { return ids[static_cast<std::size_t>(n)]; };
  std::stable_sort(rows.begin(), rows.end(), [&](int32_t a, int32_t b) { return id(a) < id(b); });
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (i == 0 || id(rows[i]) != id(rows[i - 1])) first.push_back(static_cast<int32_t>(i));
  const auto tokens = static_cast<int64_t>(first.size());
  first.push_back(static_cast<int32_t>(rows.size()));
  constexpr int V = detail::pack_size<T>;
  const auto d_ids = ctx.upload(ids), d_first = ctx.upload(first), d_rows = ctx.upload(rows);
  launch(detail::rows_aligned16<T>(C, dw.data, dy.data) ? detail::embedding_backward_kernel<T, V>
                                                        : detail::embedding_backward_kernel<T, 1>,
         detail::grid_of(tokens), 128, 0, ctx.stream(), dw.data, dy.data, d_ids.get(), d_first.get(), d_rows.get(), C,
         static_cast<accumulate_t<T>>(scale));
}

}  // namespace ft::inline FTLIB_ABI
