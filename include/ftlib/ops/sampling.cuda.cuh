// ops/sampling.cuda.cuh: choosing the next token of each row of logits on the GPU.
#pragma once
#include <ftlib/cuda/reduce.cuda.cuh>    // warp_sum, warp_max
#include <ftlib/ops/sampling.shared.hpp>  // SamplingRule

#include <algorithm>  // std::min
#include <cmath>      // std::isfinite
#include <concepts>   // std::same_as
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

inline constexpr int sampling_threads = 512;  // of a block, at most

/// A row of logits as its block goes through it: each warp takes one part, and the parts are in the order of ids.
template <int V> struct LogitRow {
  const float* logits;
  int C;           // the vocabulary
  int begin, end;  // this warp's part

  __device__ LogitRow(const float* logits_, int C_) : logits(logits_), C(C_) {
    const int all = static_cast<int>(blockDim.x / 32), warp = static_cast<int>(threadIdx.x / 32);
    const int share = ((C + 32 * V - 1) / (32 * V) + all - 1) / all * 32 * V;
    begin = std::min(C, warp * share);
    end = std::min(C, begin + share);
  }
  /// f(rank, logit) for this lane's share of the warp's part.
  template <class F> __device__ void for_each(F f) const {
    for (int c = begin + lane() * V; c < end; c += 32 * V) {
      const auto xs = load<V>(logits + c);
      for (int k = 0; k < V; ++k) f(likelihood_rank(xs.v[k], c + k, C), xs.v[k]);
    }
  }
};

/// x becomes its sum over the block, in each thread.
template <int n> __device__ void block_sums(uint64_t (&x)[n]) {
  __shared__ uint64_t of_warp[n][sampling_threads / 32], sums[n];
  for (int i = 0; i < n; ++i) {
    x[i] = warp_sum(x[i]);
    if (lane() == 0) of_warp[i][threadIdx.x / 32] = x[i];
  }
  __syncthreads();
  if (threadIdx.x < n) {
    uint64_t sum = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += of_warp[threadIdx.x][w];
    sums[threadIdx.x] = sum;
  }
  __syncthreads();
  for (int i = 0; i < n; ++i) x[i] = sums[i];
}

/// Logits in shared memory, in an order that differs from run to run: whole numbers of them are summed.
struct FewLogits {
  static constexpr int most = 2048;
  uint64_t ranks[most];
  float logits[most];
  int size;
};

/// The highest rank in [low, high) of which, with all above, the logits measure `target` or more; `low` where they do
/// not. None is ranked `high` or above. Each pass over the row leaves a quarter of the ranks; once they hold few enough
/// logits, these go to shared memory, where passes cost little: between 16-bit logits many passes part nothing.
template <int V, class Measure>
__device__ uint64_t lowest_kept(const LogitRow<V>& row, FewLogits& few, uint64_t low, uint64_t high, uint64_t target,
                                Measure measure) {
  constexpr unsigned parts = 4;
  uint64_t above = 0;  // what logits of `high` and above measure
  bool gathered = false;
  if (threadIdx.x == 0) few.size = 0;
  while (high - low > 1) {
    const uint64_t step = (high - low + parts - 1) / parts;
    uint64_t sums[2 * parts] = {};  // of logits in [low + i step, high): measure; then number
    const auto add = [&](uint64_t rank, float logit) {
      if (rank < low || rank >= high) return;
      const uint64_t m = measure(logit);
      for (unsigned i = 0; i < parts; ++i)
        if (rank >= low + i * step) sums[i] += m, ++sums[parts + i];
    };
    if (gathered)
      for (int i = static_cast<int>(threadIdx.x); i < few.size; i += static_cast<int>(blockDim.x))
        add(few.ranks[i], few.logits[i]);
    else row.for_each(add);
    block_sums(sums);
    bool found = false;
    uint64_t from = low, to = high, outside = above, number = 0, number_outside = 0;
    for (unsigned i = parts; i-- > 0;) {
      if (found) continue;
      from = low + i * step;
      if (above + sums[i] >= target) {
        found = true;
        number = above + sums[i] == target ? 0 : sums[parts + i] - number_outside;
      } else {
        if (from < to) to = from;
        outside = above + sums[i];
        number_outside = sums[parts + i];
      }
    }
    if (!found || number <= 1) return from;
    low = from;
    high = to;
    above = outside;
    if (gathered || number > FewLogits::most) continue;
    row.for_each([&](uint64_t rank, float logit) {
      if (rank < low || rank >= high) return;
      const int i = atomicAdd(&few.size, 1);
      few.ranks[i] = rank;
      few.logits[i] = logit;
    });
    gathered = true;
    __syncthreads();
  }
  return low;
}

// One block a row, V elements a lane and load. Reads the row once for the largest logit, once for each of top_p's total
// and the draw, and up to 9 times for each of top_k's and top_p's thresholds, from the cache (a row of 262,144 logits
// is 1 MiB). All sums are of whole numbers, and so the same in any order. Few rows, so registers serve one block of 512
// threads rather than many.
template <int V>
__global__ void __launch_bounds__(sampling_threads, 1)
    sample_tokens_kernel(int32_t* tokens, float* logits, int C, SamplingRule rule, const double* uniform,
                         const int32_t* history, const int64_t* starts) {
  __shared__ FewLogits few;
  __shared__ uint64_t of_warp[sampling_threads / 32], sum_of_warp[sampling_threads / 32];
  const int64_t n = blockIdx.x;
  const unsigned warp = threadIdx.x / 32, warps_here = blockDim.x / 32;
  float* const x = logits + n * C;
  if (starts) {
    for (int64_t i = starts[n] + threadIdx.x; i < starts[n + 1]; i += blockDim.x) {
      const float logit = x[history[i]];
      x[history[i]] = logit > 0 ? logit / rule.repetition_penalty : logit * rule.repetition_penalty;
    }
    __syncthreads();
  }
  const LogitRow<V> row(x, C);

  uint64_t best = 0;
  row.for_each([&](uint64_t rank, float) { best = best < rank ? rank : best; });
  best = warp_max(best);
  if (lane() == 0) of_warp[warp] = best;
  __syncthreads();
  for (unsigned w = 0; w < warps_here; ++w) best = best < of_warp[w] ? of_warp[w] : best;
  const int32_t likeliest = id_of_rank(best, C);
  const float largest = x[likeliest];
  if (rule.greedy || !std::isfinite(largest)) {
    if (threadIdx.x == 0) tokens[n] = likeliest;
    return;
  }

  const auto weight = [&](float logit) { return sampling_weight((largest - logit) * rule.scale); };
  uint64_t lowest = likelihood_rank(largest - rule.reach, C - 1, C);  // of the candidates
  const auto sum_weights = [&] {                                      // of this lane's share
    uint64_t sum = 0;
    row.for_each([&](uint64_t rank, float logit) { sum += rank >= lowest ? weight(logit) : 0; });
    return sum;
  };
  if (rule.top_k) lowest = lowest_kept(row, few, lowest, best + 1, rule.top_k, [](float) { return uint64_t{1}; });
  if (rule.top_p < 1) {
    uint64_t total[1] = {sum_weights()};
    block_sums(total);
    lowest = lowest_kept(row, few, lowest, best + 1, top_p_target(rule.top_p, total[0]), weight);
  }

  // The draw falls into the part of one warp, which goes through it again.
  const uint64_t mine = warp_sum(sum_weights());
  if (lane() == 0) sum_of_warp[warp] = mine;
  __syncthreads();
  uint64_t total = 0, before = 0;
  for (unsigned w = 0; w < warps_here; ++w) {
    if (w < warp) before += sum_of_warp[w];
    total += sum_of_warp[w];
  }
  const uint64_t at = draw_position(uniform[n], total);
  if (at < before || at >= before + mine) return;
  for (int first = row.begin; first < row.end; first += 32 * V) {
    const int c = first + lane() * V;
    uint64_t weights[V] = {}, sum = 0;
    if (c < row.end) {
      const auto xs = load<V>(x + c);
      for (int k = 0; k < V; ++k) {
        weights[k] = likelihood_rank(xs.v[k], c + k, C) >= lowest ? weight(xs.v[k]) : 0;
        sum += weights[k];
      }
    }
    uint64_t until = sum;  // the lane's and those of the lanes before it
    for (unsigned lanes = 1; lanes < 32; lanes *= 2) {
      const uint64_t other = __shfl_up_sync(all_lanes, until, lanes);
      if (lane() >= static_cast<int>(lanes)) until += other;
    }
    const uint64_t of_tile = __shfl_sync(all_lanes, until, 31);
    if (at < before + of_tile) {
      uint64_t so_far = before + until - sum;
      for (int k = 0; k < V; ++k) {
        if (at >= so_far && at < so_far + weights[k]) tokens[n] = c + k;
        so_far += weights[k];
      }
      return;
    }
    before += of_tile;
  }
}

}  // namespace detail

/// tokens[n] = the next token by row n of logits; see sample_tokens in ops/sampling.hpp.
template <Scalar T>
void choose_tokens(Context<Cuda>& ctx,
                   View<int32_t> tokens,                  // (n)     assigned
                   View<T> logits,                        // (n, V)  those of `history` are changed
                   const detail::SamplingRule& rule,      //
                   const std::vector<double>& uniform,    // (n)     empty where rule.greedy
                   const std::vector<int32_t>& history,   // distinct ids of row n: [starts[n], starts[n + 1])
                   const std::vector<int64_t>& starts) {  // (n + 1)  empty: no history
  static_assert(std::same_as<T, float>, "tokens are chosen from logits in float");
  const auto uniforms = ctx.upload(uniform);
  const auto ids = ctx.upload(history);
  const auto firsts = ctx.upload(starts);
  const auto V = static_cast<int>(logits.cols());
  launch(detail::rows_aligned16<T>(V, logits.data) ? detail::sample_tokens_kernel<detail::pack_size<T>>
                                                   : detail::sample_tokens_kernel<1>,
         detail::grid_of(logits.rows()), V < 16384 ? detail::block_size : detail::sampling_threads, 0, ctx.stream(),
         tokens.data, logits.data, V, rule, uniforms.get(), ids.get(), starts.empty() ? nullptr : firsts.get());
}

}  // namespace ft::inline FTLIB_ABI
