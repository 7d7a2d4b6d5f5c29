// optim/adamw8bit.cuda.cuh: one step of AdamW with moments in 8 bits, of all parameters, on the GPU, in one kernel.
#pragma once
#include <ftlib/cuda/reduce.cuda.cuh>        // warp_max, lane
#include <ftlib/optim/adamw8bit.shared.hpp>  // AdamW8bitItem, dynamic_code
#include <ftlib/optim/clip.shared.hpp>       // Verdict
#include <ftlib/optim/list.cuda.cuh>         // upload_list, my_part
#include <ftlib/optim/stochastic.hpp>        // round_by_chance

#include <cmath>   // std::sqrt
#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

template <class T> struct AdamW8bitEntry {
  using A = accumulate_t<T>;
  T* w;
  uint8_t *m, *v;
  float *m_max, *v_max;
  const A* g;
  A* master;
  int64_t count, first_block;
  uint64_t random;
  A keep, step_size, beta1, new1, beta2, new2, correction, eps;  // correction: 1 / sqrt_correction
};

/// The two codes, passed with the launch: 2 KiB in the bank of constants.
struct MomentCodes {
  DynamicCode of_m, of_v;
};

// A warp a block of 256 moments, in eight rounds of 32 neighbours, so that each load and store is of one line. The
// codes are copied to shared memory, where lanes may look at different places at once. Reads and writes 8.3 bytes of
// state and weight an element of float, and reads its gradient.
template <class T, Master master>
__global__ void __launch_bounds__(block_size, 2)
    adamw8bit_kernel(List<AdamW8bitEntry<T>> list, const MomentCodes codes, const Verdict* verdict, uint64_t seed) {
  using A = accumulate_t<T>;
  constexpr int rounds = static_cast<int>(moments_block / 32);
  __shared__ MomentCodes shared;
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += block_size) {
    shared.of_m[static_cast<std::size_t>(i)] = codes.of_m[static_cast<std::size_t>(i)];
    shared.of_v[static_cast<std::size_t>(i)] = codes.of_v[static_cast<std::size_t>(i)];
  }
  __syncthreads();
  if (verdict && !verdict->finite) return;
  const A factor = verdict ? static_cast<A>(verdict->factor) : A(1);
  const auto part = my_part(list);
  const AdamW8bitEntry<T> e = part.entry;  // a copy, which no store can change
  for (int64_t begin = part.begin + int64_t{threadIdx.x / 32} * moments_block; begin < part.end;
       begin += warps * moments_block) {
    const int64_t block = begin / moments_block;
    const A m_scale = static_cast<A>(e.m_max[block]), v_scale = static_cast<A>(e.v_max[block]);
    A ms[rounds], vs[rounds];
    A m_max = 0, v_max = 0;
    for (int r = 0; r < rounds; ++r) {
      const int64_t i = begin + r * 32 + lane();
      ms[r] = vs[r] = 0;
      if (i >= part.end) continue;
      const A g = factor * e.g[i];
      const A m = e.beta1 * m_scale * static_cast<A>(shared.of_m[e.m[i]]) + e.new1 * g;
      const A v = e.beta2 * v_scale * static_cast<A>(shared.of_v[e.v[i]]) + e.new2 * g * g;
      A w;
      if constexpr (master == Master::float32) w = e.master[i];
      else w = widen(e.w[i]);
      w = e.keep * w - e.step_size * m / (std::sqrt(v) * e.correction + e.eps);
      if constexpr (master == Master::float32) e.master[i] = w;
      if constexpr (master == Master::stochastic_rounding) {
        const auto words = philox(seed, e.random + static_cast<uint64_t>(i) / 8, 2);
        e.w[i] = round_by_chance<T>(w, bits16(words, static_cast<int>(i % 8)));
      } else {
        e.w[i] = narrow<T>(w);
      }
      ms[r] = m;
      vs[r] = v;
      const A size = m < 0 ? -m : m;
      m_max = m_max < size ? size : m_max;
      v_max = v_max < v ? v : v_max;
    }
    __syncwarp();  // all lanes have read the block's scales, which one will write
    m_max = warp_max(m_max);
    v_max = warp_max(v_max);
    const A to_m = m_max > 0 ? 1 / m_max : 0, to_v = v_max > 0 ? 1 / v_max : 0;
    for (int r = 0; r < rounds; ++r) {
      const int64_t i = begin + r * 32 + lane();
      if (i >= part.end) continue;
      e.m[i] = nearest_code(shared.of_m, static_cast<float>(ms[r] * to_m));
      e.v[i] = nearest_code(shared.of_v, static_cast<float>(vs[r] * to_v));
    }
    if (lane() == 0) {
      e.m_max[block] = static_cast<float>(m_max);
      e.v_max[block] = static_cast<float>(v_max);
    }
  }
}

}  // namespace detail

/// As adamw_update, over moments that are widened, changed, and rounded to the code again, block by block.
template <Scalar T>
void adamw8bit_update(Context<Cuda>& ctx, std::span<const AdamW8bitItem<T>> items, const Verdict* verdict,
                      Master master, uint64_t seed) {  // null: factor 1
  using A = accumulate_t<T>;
  static_assert(detail::list_chunk % moments_block == 0);
  static constexpr detail::MomentCodes codes{dynamic_code(true), dynamic_code(false)};
  std::vector<detail::AdamW8bitEntry<T>> entries;
  for (const AdamW8bitItem<T>& item : items) {
    const AdamWFactors& f = item.factors;
    entries.push_back({item.w.data, item.m, item.v, item.m_max, item.v_max, item.g.data, item.master.data,
                       item.w.count(), 0, item.random, A(f.keep), A(f.step_size), A(f.beta1), A(1 - f.beta1),
                       A(f.beta2), A(1 - f.beta2), A(1 / f.sqrt_correction), A(f.eps)});
  }
  const auto list = detail::upload_list(ctx, std::move(entries));
  auto* kernel = detail::adamw8bit_kernel<T, Master::none>;
  if constexpr (sizeof(T) == 2) {
    if (master == Master::float32) kernel = detail::adamw8bit_kernel<T, Master::float32>;
    if (master == Master::stochastic_rounding) kernel = detail::adamw8bit_kernel<T, Master::stochastic_rounding>;
  }
  launch(kernel, detail::grid_of(list.blocks), detail::block_size, 0, ctx.stream(), list.get(), codes, verdict, seed);
}

}  // namespace ft::inline FTLIB_ABI
