// ops/cross_entropy.cuda.cuh: softmax cross-entropy of a chunk of logits on the GPU, and moving rows to and from it.
#pragma once
#include <ftlib/ops/rows.cuda.cuh>  // take_rows_kernel, warp_sum, warp_max, sum_all

#include <algorithm>    // std::min
#include <cmath>        // std::exp, std::log
#include <limits>       // std::numeric_limits
#include <type_traits>  // std::integral_constant

namespace ft::inline FTLIB_ABI {

namespace detail {

/// op over a block of at most 1024 threads, in each of them; `of_warp` is shared and used for nothing else.
template <class A, class Op> __device__ A block_all(A (&of_warp)[32], A x, A neutral, Op op) {
  x = op(x);
  if (lane() == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  return op(lane() < static_cast<int>(blockDim.x / 32) ? of_warp[lane()] : neutral);
}

/// f(V or 1 as a type, c) for this thread's share of a row of C elements that begins at any address: packs of V at
/// multiples of 16 bytes, single elements before the first and behind the last.
template <int V, class T, class F> __device__ void for_each_pack(const T* row, int64_t C, F f) {
  const auto off = static_cast<int64_t>(reinterpret_cast<std::uintptr_t>(row) % 16 / sizeof(T));
  const int64_t head = std::min(C, (V - off) % V), end = head + (C - head) / V * V, i = threadIdx.x;
  for (int64_t c = head + i * V; c < end; c += int64_t{blockDim.x} * V) f(std::integral_constant<int, V>(), c);
  if (i < head + C - end) f(std::integral_constant<int, 1>(), i < head ? i : end + i - head);
}

// One block a row. A thread goes through its share once, for the largest logit so far and the sum of exp(logit -
// largest), which shrinks as the largest grows; with `gradient` once more, to write.   arXiv:1805.02867
// Moves N C sizeof(T) bytes, with `gradient` three times as many: bound by memory. A chunk has few rows of many
// logits, so there a block has 1024 threads: 16 KiB of loads on their way in each multiprocessor.
template <class T> inline constexpr int most_threads = sizeof(T) == 8 ? 512 : 1024;  // double needs more registers
template <class T, int V>
__global__ void __launch_bounds__(most_threads<T>)
    softmax_cross_entropy_kernel(accumulate_t<T>* nll, T* logits, const int32_t* targets, int64_t C, bool gradient,
                                 const accumulate_t<T>* scale) {
  using A = accumulate_t<T>;
  __shared__ A largest[32], sums[32];
  T* const row = logits + blockIdx.x * C;
  const int64_t target = targets[blockIdx.x];
  const A wanted = widen(row[target]);
  constexpr A lowest = std::numeric_limits<A>::lowest();  // finite, so that a share of -infinities alone sums to 0
  A most = lowest, sum = 0;
  for_each_pack<V>(row, C, [&](auto size, int64_t c) {
    const auto xs = load<size()>(row + c);
    A now = most;
    for (int k = 0; k < size(); ++k) now = now < widen(xs.v[k]) ? widen(xs.v[k]) : now;
    sum *= std::exp(most - now);
    for (int k = 0; k < size(); ++k) sum += std::exp(widen(xs.v[k]) - now);
    most = now;
  });
  const A offset = block_all(largest, most, lowest, warp_max<A>);
  sum = block_all(sums, sum * std::exp(most - offset), A(0), warp_sum<A>);
  if (nll && threadIdx.x == 0) nll[blockIdx.x] = std::log(sum) - (wanted - offset);
  if (!gradient) return;
  const A whole = scale ? *scale : A(1), factor = whole / sum;
  for_each_pack<V>(row, C, [&](auto size, int64_t c) {
    auto xs = load<size()>(row + c);
    for (int k = 0; k < size(); ++k)
      xs.v[k] = narrow<T>(std::exp(widen(xs.v[k]) - offset) * factor - (c + k == target ? whole : A(0)));
    store(row + c, xs);
  });
}

// One block a row. A thread goes through its share of both rows once, for the largest of each, the sums of exp(x -
// largest), and the sum of exp(p - largest) (p - q) of logits p and q; with `gradient` once more.
// Moves 2 N C sizeof(T) bytes, with `gradient` five times N C: bound by memory.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    softmax_divergence_kernel(accumulate_t<T>* kl, T* logits, const T* teacher, int64_t C, bool gradient,
                              const accumulate_t<T>* scale) {
  using A = accumulate_t<T>;
  __shared__ A shared[5][32];
  T* const qs = logits + blockIdx.x * C;
  const T* const ps = teacher + blockIdx.x * C;
  constexpr A lowest = std::numeric_limits<A>::lowest();
  A most_q = lowest, most_p = lowest, sum_q = 0, sum_p = 0, gain = 0;
  for (int64_t c = threadIdx.x * V; c < C; c += int64_t{blockDim.x} * V) {
    const auto q = load<V>(qs + c), p = load<V>(ps + c);
    A now_q = most_q, now_p = most_p;
    for (int k = 0; k < V; ++k) {
      now_q = now_q < widen(q.v[k]) ? widen(q.v[k]) : now_q;
      now_p = now_p < widen(p.v[k]) ? widen(p.v[k]) : now_p;
    }
    const A less = std::exp(most_p - now_p);
    sum_q *= std::exp(most_q - now_q);
    sum_p *= less;
    gain *= less;
    for (int k = 0; k < V; ++k) {
      const A e = std::exp(widen(p.v[k]) - now_p);
      sum_q += std::exp(widen(q.v[k]) - now_q);
      sum_p += e;
      gain += e * (widen(p.v[k]) - widen(q.v[k]));
    }
    most_q = now_q;
    most_p = now_p;
  }
  const A of_q = block_all(shared[0], most_q, lowest, warp_max<A>),
          of_p = block_all(shared[1], most_p, lowest, warp_max<A>);
  const A less = std::exp(most_p - of_p);
  sum_q = block_all(shared[2], sum_q * std::exp(most_q - of_q), A(0), warp_sum<A>);
  sum_p = block_all(shared[3], sum_p * less, A(0), warp_sum<A>);
  gain = block_all(shared[4], gain * less, A(0), warp_sum<A>);
  if (threadIdx.x == 0) kl[blockIdx.x] = gain / sum_p - (of_p + std::log(sum_p)) + (of_q + std::log(sum_q));
  if (!gradient) return;
  const A whole = scale ? *scale : A(1), factor_q = whole / sum_q, factor_p = whole / sum_p;
  for (int64_t c = threadIdx.x * V; c < C; c += int64_t{blockDim.x} * V) {
    auto q = load<V>(qs + c);
    const auto p = load<V>(ps + c);
    for (int k = 0; k < V; ++k)
      q.v[k] = narrow<T>(std::exp(widen(q.v[k]) - of_q) * factor_q - std::exp(widen(p.v[k]) - of_p) * factor_p);
    store(qs + c, q);
  }
}

// to[rows[n]] = scale from[n]. One warp a row, V elements a lane and load. Moves 2 N C sizeof(T) bytes.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    scatter_rows_kernel(T* to, const T* from, const int32_t* rows, int64_t N, int64_t C, const accumulate_t<T>* scale) {
  const int64_t n = row();
  if (n >= N) return;
  const accumulate_t<T> factor = scale ? *scale : accumulate_t<T>(1);
  T* const out = to + rows[n] * C;
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    auto xs = load<V>(from + n * C + c);
    for (int k = 0; k < V; ++k) xs.v[k] = narrow<T>(factor * widen(xs.v[k]));
    store(out + c, xs);
  }
}

}  // namespace detail

/// nll[n] = -log softmax(logits[n])[target[n]]. With `gradient`, logits become scale (softmax - onehot(target)).
template <Scalar T>
void softmax_cross_entropy(Context<Cuda>& ctx,
                           View<accumulate_t<T>> nll,                        // (N)     assigned
                           View<T> logits,                                   // (N, V)  in, and with `gradient` out
                           In<int32_t> targets,                              // (N)     in [0, V)
                           bool gradient, In<accumulate_t<T>> scale = {}) {  // ()      empty: 1
  launch(detail::softmax_cross_entropy_kernel<T, detail::pack_size<T>>, detail::grid_of(logits.rows()),
         logits.cols() < 16384 ? detail::block_size : detail::most_threads<T>, 0, ctx.stream(), nll.data, logits.data,
         targets.data, logits.cols(), gradient, scale.data);
}

/// kl[n] = KL(softmax(teacher[n]) || softmax(logits[n])), of finite logits. With `gradient`, logits become scale
/// (softmax(logits) - softmax(teacher)).
template <Scalar T>
void softmax_divergence(Context<Cuda>& ctx,
                        View<accumulate_t<T>> kl,                         // (N)     assigned
                        View<T> logits,                                   // (N, V)  in, and with `gradient` out
                        View<T> teacher,                                  // (N, V)  in
                        bool gradient, In<accumulate_t<T>> scale = {}) {  // ()      empty: 1
  launch(detail::rows_aligned16<T>(logits.cols(), logits.data, teacher.data)
             ? detail::softmax_divergence_kernel<T, detail::pack_size<T>>
             : detail::softmax_divergence_kernel<T, 1>,
         detail::grid_of(logits.rows()), detail::block_size, 0, ctx.stream(), kl.data, logits.data, teacher.data,
         logits.cols(), gradient, scale.data);
}

/// to[n] = from[rows[n]]
template <Scalar T>
void gather_rows(Context<Cuda>& ctx,
                 View<T> to,          // (n, C)  assigned
                 In<T> from,          // (N, C)
                 In<int32_t> rows) {  // (n)
  using detail::Take;
  const int64_t C = to.cols();
  launch(detail::rows_aligned16<T>(C, to.data, from.data)
             ? detail::take_rows_kernel<Take::forward, T, detail::pack_size<T>>
             : detail::take_rows_kernel<Take::forward, T, 1>,
         detail::grid_of_rows(to.rows()), detail::block_size, 0, ctx.stream(), to.data, from.data, rows.data, to.rows(),
         0, from.rows(), C);
}

/// to[rows[n]] = scale from[n]; no row twice.
template <Scalar T>
void scatter_rows(Context<Cuda>& ctx,
                  View<T> to,                        // (N, C)  rows named are assigned, others left
                  In<T> from,                        // (n, C)
                  In<int32_t> rows,                  // (n)
                  In<accumulate_t<T>> scale = {}) {  // ()      empty: 1
  const int64_t C = from.cols();
  launch(detail::rows_aligned16<T>(C, to.data, from.data) ? detail::scatter_rows_kernel<T, detail::pack_size<T>>
                                                          : detail::scatter_rows_kernel<T, 1>,
         detail::grid_of_rows(from.rows()), detail::block_size, 0, ctx.stream(), to.data, from.data, rows.data,
         from.rows(), C, scale.data);
}

/// sum = the sum of all of x, in double.
template <Scalar T> void sum_all(Context<Cuda>& ctx, View<T> sum, In<T> x) {
  detail::sum_all(ctx, detail::Same{}, sum.data, 1, x.count(), x.data);
}

}  // namespace ft::inline FTLIB_ABI
