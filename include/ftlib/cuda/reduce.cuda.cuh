// cuda/reduce.cuda.cuh: sums on the GPU: over a warp, over the rows of a matrix, over all elements. Each has one order
// that depends on sizes alone, and none uses atomics, so a run repeats bit for bit.
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>  // load, store
#include <ftlib/tensor/view.hpp>       // View

#include <algorithm>  // std::max
#include <memory>     // std::shared_ptr

namespace ft::inline FTLIB_ABI::detail {

inline constexpr unsigned all_lanes = 0xffffffffu;
inline constexpr int warps = block_size / 32;

/// The sum over the lanes of a warp, or over each L neighbours of them, in each of them.
template <class A, int L = 32> __device__ A warp_sum(A x) {
  for (int lanes = L / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(all_lanes, x, lanes);
  return x;
}
template <class A> __device__ A warp_max(A x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const A other = __shfl_xor_sync(all_lanes, x, lanes);
    x = x < other ? other : x;
  }
  return x;
}
/// The sum over a block of block_size threads, in its thread 0.
template <class A> __device__ A block_sum(A x) {
  __shared__ A of_warp[warps];
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  A sum = 0;
  if (threadIdx.x == 0)
    for (int w = 0; w < warps; ++w) sum += of_warp[w];
  return sum;
}

// Kernels of one warp a row: row() is this warp's, and whole warps leave where there is none.
__device__ inline int64_t row() { return blockIdx.x * int64_t{warps} + threadIdx.x / 32; }
__device__ inline int lane() { return static_cast<int>(threadIdx.x % 32); }
inline dim3 grid_of_rows(int64_t N) { return grid_of(ceil_div(N, warps)); }

// Sums of columns. `of.template add<V>(sum, n, c)` adds what row n gives to columns c to c + V - 1. A block has 32 V
// columns of one segment of the rows: a segment is `length` rows, or rows [starts[s], starts[s + 1]). Its warps take
// rows in turn, and their sums are added in the order of the warps.
template <int V, class A, class Of, class Out>
__global__ void __launch_bounds__(block_size)
    column_sums_kernel(Of of, Out* out, const int64_t* starts, int64_t length, int64_t N, int64_t C) {
  __shared__ A sums[warps][32 * V];
  const int64_t tiles = (C + 32 * V - 1) / (32 * V), segment = blockIdx.x / tiles, first = blockIdx.x % tiles * 32 * V;
  const int64_t begin = starts ? starts[segment] : segment * length;
  const int64_t end = starts ? starts[segment + 1] : (begin + length < N ? begin + length : N);
  const int warp = static_cast<int>(threadIdx.x / 32), column = lane() * V;
  A sum[V] = {};
  if (first + column < C)
    for (int64_t n = begin + warp; n < end; n += warps) of.template add<V>(sum, n, first + column);
  for (int k = 0; k < V; ++k) sums[warp][column + k] = sum[k];
  __syncthreads();
  const int mine = static_cast<int>(threadIdx.x);
  if (mine >= 32 * V || first + mine >= C) return;
  A total = 0;
  for (int w = 0; w < warps; ++w) total += sums[w][mine];
  out[segment * C + first + mine] = narrow<Out>(total);
}
// to[c] += partial[0][c] + partial[1][c] + ...: 32 columns a block, whose warps take parts in turn.
template <class A>
__global__ void __launch_bounds__(block_size) add_partials_kernel(A* to, const A* partial, int64_t parts, int64_t C) {
  __shared__ A sums[warps][32];
  const int64_t c = blockIdx.x * int64_t{32} + lane();
  const int warp = static_cast<int>(threadIdx.x / 32);
  A sum = 0;
  if (c < C)
    for (int64_t p = warp; p < parts; p += warps) sum += partial[p * C + c];
  sums[warp][lane()] = sum;
  __syncthreads();
  if (warp > 0 || c >= C) return;
  A total = 0;
  for (int w = 0; w < warps; ++w) total += sums[w][lane()];
  to[c] += total;
}

/// to (C) += the sum over rows 0 to N - 1 of what `of` gives. Reads each row once; partial sums of 128 rows or more, at
/// most 256 of them, go through memory.
template <int V, class A, class Of> void add_column_sums(Context<Cuda>& ctx, Of of, A* to, int64_t N, int64_t C) {
  if (N == 0 || C == 0) return;
  const int64_t length = std::max<int64_t>(128, ceil_div(N, 256)), parts = ceil_div(N, length);
  const std::shared_ptr<void> memory = ctx.allocate(static_cast<std::size_t>(parts * C) * sizeof(A));
  A* const partial = static_cast<A*>(memory.get());
  launch(column_sums_kernel<V, A, Of, A>, grid_of(parts * ceil_div(C, 32 * V)), block_size, 0, ctx.stream(), of,
         partial, nullptr, length, N, C);
  launch(add_partials_kernel<A>, grid_of(ceil_div(C, 32)), block_size, 0, ctx.stream(), to, partial, parts, C);
}
/// out (B, C) = for each group of rows the sum of what `of` gives.
template <int V, class A, class Of, class Out>
void sum_groups(Context<Cuda>& ctx, Of of, Out* out, const int64_t* starts, int64_t B, int64_t C) {
  launch(column_sums_kernel<V, A, Of, Out>, grid_of(B * ceil_div(C, 32 * V)), block_size, 0, ctx.stream(), of, out,
         starts, 0, 0, C);
}

// Sums of everything, in double from a thread's first few elements on.
template <int V, class F, class... X>
__global__ void __launch_bounds__(block_size) sum_kernel(F f, double* partial, int64_t count, const X*... x) {
  const int64_t step = gridDim.x * int64_t{block_size} * V;
  double sum = 0;
  for (int64_t i = (blockIdx.x * int64_t{block_size} + threadIdx.x) * V; i < count; i += step) {
    if (i + V <= count) {
      [&](const auto&... in) {
        for (int k = 0; k < V; ++k) sum += static_cast<double>(f(widen(in.v[k])...));
      }(load<V>(x + i)...);
    } else {
      for (int64_t k = i; k < count; ++k) sum += static_cast<double>(f(widen(x[k])...));
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
template <class Y>
__global__ void __launch_bounds__(block_size)
    finish_sum_kernel(Y* y, const double* partial, int64_t parts, double factor) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += block_size) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *y = narrow<Y>(factor * sum);
}

/// Blocks that sum `count` elements: a number that does not depend on the device, so that results do not.
inline int64_t sum_parts(int64_t count) {
  const int64_t parts = ceil_div(count, block_size * 32);
  return parts < 1 ? 1 : parts > 1024 ? 1024 : parts;
}
/// partial[0 .. sum_parts(count) - 1] = sums of f(x...).
template <class F, class... X> void sum_to(Context<Cuda>& ctx, F f, double* partial, int64_t count, const X*... x) {
  constexpr int V = pack_size<X...>;
  launch(aligned16(x...) ? sum_kernel<V, F, X...> : sum_kernel<1, F, X...>, grid_of(sum_parts(count)), block_size, 0,
         ctx.stream(), f, partial, count, x...);
}
/// *y = factor times the sum of f(x...).
template <class Y, class F, class... X>
void sum_all(Context<Cuda>& ctx, F f, Y* y, double factor, int64_t count, const X*... x) {
  const int64_t parts = sum_parts(count);
  const std::shared_ptr<void> partial = ctx.allocate(static_cast<std::size_t>(parts) * sizeof(double));
  sum_to(ctx, f, static_cast<double*>(partial.get()), count, x...);
  launch(finish_sum_kernel<Y>, 1, block_size, 0, ctx.stream(), y, static_cast<const double*>(partial.get()), parts,
         factor);
}

}  // namespace ft::inline FTLIB_ABI::detail
