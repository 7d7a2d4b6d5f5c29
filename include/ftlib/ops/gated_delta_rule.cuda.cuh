// ops/gated_delta_rule.cuda.cuh: the gated delta rule on the GPU, forward and backward.
#pragma once
#include <ftlib/cuda/reduce.cuda.cuh>             // block_size, grid_of
#include <ftlib/ops/gated_delta_rule.shared.hpp>  // DeltaHead

#include <algorithm>  // std::min
#include <memory>     // std::shared_ptr

namespace ft::inline FTLIB_ABI {

namespace detail {

/// A block of block_size threads.
struct DeltaBlock {
  static constexpr int64_t pad = 1;

  template <class F> __device__ __forceinline__ void each(int64_t n, F f) const {
    for (int64_t i = threadIdx.x; i < n; i += block_size) f(i);
    __syncthreads();
  }
  template <class F> __device__ __forceinline__ void each(int64_t rows, int64_t cols, F f) const {
    for (int64_t i = threadIdx.x; i < rows * cols; i += block_size) f(i / cols, i % cols);
    __syncthreads();
  }
  // Four rows of a column a thread, so that what is read of b serves four products.
  template <class A>
  [[gnu::noinline]] __device__ void product(A* c, int64_t c_step, const A* a, int64_t a_row, int64_t a_col, const A* b,
                                            int64_t b_step, int64_t rows, int64_t cols, int64_t depth,
                                            Write write) const {
    constexpr int many = 4;
    const int64_t tasks = (rows + many - 1) / many * cols;
    for (int64_t task = threadIdx.x; task < tasks; task += block_size) {
      const int64_t first = task / cols * many, j = task % cols;
      A sum[many] = {};
      for (int64_t d = 0; d < depth; ++d) {
        const A x = b[d * b_step + j];
        for (int r = 0; r < many; ++r)
          if (first + r < rows) sum[r] += a[(first + r) * a_row + d * a_col] * x;
      }
      for (int r = 0; r < many; ++r)
        if (first + r < rows) {
          A& to = c[(first + r) * c_step + j];
          to = write == Write::add ? to + sum[r] : sum[r];
        }
    }
    __syncthreads();
  }
  template <class T> __device__ static accumulate_t<T> wide(T x) { return widen(x); }
  template <class T, class A> __device__ static T narrow(A x) { return detail::narrow<T>(x); }
};

// One block a key head of a text, or several of them in turn, in memory of `size` elements of its own, which stays in
// the caches; sums in float. Bound by latency: chunks of a text follow one another. Where the arrays are lies in shared
// memory, for it would fill the registers. (256, 1): what indices take.
template <class T>
__global__ void __launch_bounds__(block_size, 1)
    gated_delta_forward_kernel(DeltaPointers<T> of, const DeltaText* texts, int64_t tasks, T* y,
                               accumulate_t<T>* starts, accumulate_t<T>* kept, accumulate_t<T>* memory, int64_t size) {
  __shared__ DeltaScratch<accumulate_t<T>> m;
  if (threadIdx.x == 0) of.lay_out(m, memory + blockIdx.x * size, DeltaBlock::pad, false);
  __syncthreads();
  const DeltaBlock block;
  for (int64_t i = blockIdx.x; i < tasks; i += gridDim.x)
    DeltaHead<T, DeltaBlock>(block, of, texts[i / of.key_heads], i % of.key_heads, m).forward(y, starts, kept);
}
template <class T>
__global__ void __launch_bounds__(block_size, 1)
    gated_delta_backward_kernel(DeltaPointers<T> of, const DeltaText* texts, int64_t tasks, DeltaGradients<T> to,
                                const T* dy, int64_t dy_step, const accumulate_t<T>* starts, accumulate_t<T>* memory,
                                int64_t size) {
  __shared__ DeltaScratch<accumulate_t<T>> m;
  if (threadIdx.x == 0) of.lay_out(m, memory + blockIdx.x * size, DeltaBlock::pad, true);
  __syncthreads();
  const DeltaBlock block;
  for (int64_t i = blockIdx.x; i < tasks; i += gridDim.x)
    DeltaHead<T, DeltaBlock>(block, of, texts[i / of.key_heads], i % of.key_heads, m)
        .backward(to, dy, dy_step, starts, i / of.key_heads);
}

// to[h] += each text's share, in their order. One thread a head.
template <class A>
__global__ void __launch_bounds__(block_size)
    gated_delta_sums_kernel(A* dA_log, A* ddt_bias, const A* sums, int64_t texts, int64_t H) {
  const int64_t h = blockIdx.x * int64_t{block_size} + threadIdx.x;
  if (h >= H) return;
  A log_sum = 0, bias_sum = 0;
  for (int64_t text = 0; text < texts; ++text) {
    log_sum += sums[(text * H + h) * 2];
    bias_sum += sums[(text * H + h) * 2 + 1];
  }
  if (dA_log) dA_log[h] += log_sum;
  if (ddt_bias) ddt_bias[h] += bias_sum;
}

/// Blocks of a launch, and how much memory each has.
template <class T> struct DeltaLaunch {
  static constexpr int64_t most = 1024;  // blocks
  int64_t tasks, blocks, size;

  DeltaLaunch(const DeltaRule<T>& rule, const DeltaPointers<T>& of, bool backward)
      : tasks(static_cast<int64_t>(rule.texts.size()) * of.key_heads), blocks(std::min(tasks, most)) {
    DeltaScratch<accumulate_t<T>> m;
    of.lay_out(m, static_cast<accumulate_t<T>*>(nullptr), DeltaBlock::pad, backward);
    size = m.size;
  }
};

}  // namespace detail

/// y, and where they are not empty: `starts`, the state that each chunk of each text begins with, and `kept`, the
/// states from which texts go on, which become those they end with.
template <Scalar T>
void gated_delta_forward(Context<Cuda>& ctx, const DeltaRule<T>& rule,
                         View<T> y,                     // (N, H, dv)              assigned
                         View<accumulate_t<T>> starts,  // (chunks, H, dk, dv)     assigned
                         View<accumulate_t<T>> kept) {  // (slots, H, dk, dv)      changed
  using A = accumulate_t<T>;
  const detail::DeltaPointers<T> of(rule);
  const detail::DeltaLaunch<T> of_launch(rule, of, false);
  if (of_launch.tasks == 0) return;
  const auto texts = ctx.upload(rule.texts);
  const std::shared_ptr<void> memory =
      ctx.allocate(static_cast<std::size_t>(of_launch.blocks * of_launch.size) * sizeof(A));
  launch(detail::gated_delta_forward_kernel<T>, detail::grid_of(of_launch.blocks), detail::block_size, 0, ctx.stream(),
         of, texts.get(), of_launch.tasks, y.data, starts.data, kept.data, static_cast<A*>(memory.get()),
         of_launch.size);
}

/// From what the forward pass left in `starts`. An empty view is a gradient that nobody wants.
template <Scalar T>
void gated_delta_backward(Context<Cuda>& ctx, const DeltaRule<T>& rule,
                          View<T> dq,                      // (N, KH, dk)  assigned
                          View<T> dk,                      // (N, KH, dk)  assigned
                          View<T> dv,                      // (N, H, dv)   assigned
                          View<T> da,                      // (N, H)       assigned
                          View<T> db,                      // (N, H)       assigned
                          View<accumulate_t<T>> dA_log,    // (H)          added
                          View<accumulate_t<T>> ddt_bias,  // (H)          added
                          In<T> dy,                        // (N, H, dv)   any stride of N
                          In<accumulate_t<T>> starts) {    // (chunks, H, dk, dv)
  using A = accumulate_t<T>;
  const detail::DeltaPointers<T> of(rule);
  const detail::DeltaLaunch<T> of_launch(rule, of, true);
  if (of_launch.tasks == 0) return;
  const auto texts = ctx.upload(rule.texts);
  const auto count = static_cast<int64_t>(rule.texts.size());
  const auto elements = [&](int64_t n) { return ctx.allocate(static_cast<std::size_t>(n) * sizeof(A)); };
  const std::shared_ptr<void> memory = elements(of_launch.blocks * of_launch.size),
                              sums = elements(count * of.heads * 2);
  const detail::DeltaGradients<T> to{dq.data, dk.data, dv.data, da.data, db.data, static_cast<A*>(sums.get())};
  launch(detail::gated_delta_backward_kernel<T>, detail::grid_of(of_launch.blocks), detail::block_size, 0, ctx.stream(),
         of, texts.get(), of_launch.tasks, to, dy.data, dy.strides[0], starts.data, static_cast<A*>(memory.get()),
         of_launch.size);
  if (dA_log || ddt_bias)
    launch(detail::gated_delta_sums_kernel<A>, detail::grid_of(detail::ceil_div(of.heads, detail::block_size)),
           detail::block_size, 0, ctx.stream(), dA_log.data, ddt_bias.data, static_cast<const A*>(sums.get()), count,
           of.heads);
}

}  // namespace ft::inline FTLIB_ABI
