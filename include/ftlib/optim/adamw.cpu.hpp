// optim/adamw.cpu.hpp: one AdamW step of all parameters on the CPU.
#pragma once
#include <ftlib/ops/simd.cpu.hpp>        // for_vectors, square_root
#include <ftlib/optim/adamw.shared.hpp>  // AdamWItem
#include <ftlib/optim/clip.shared.hpp>   // Verdict
#include <ftlib/optim/stochastic.hpp>    // round_by_chance
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>

#include <algorithm>  // std::min
#include <span>       // std::span

namespace ft::inline FTLIB_ABI {

/// For each item, with g times the verdict's factor:  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
/// w = keep w - step_size m / (sqrt(v) / sqrt_correction + eps).  Nothing where the verdict is not finite. Elements do
/// not depend on one another, so the result does not depend on the number of threads.
template <Scalar T>
void adamw_update(Context<Cpu>& ctx, std::span<const AdamWItem<T>> items, const Verdict* verdict,  // null: factor 1
                  Master master, uint64_t seed) {
  using A = accumulate_t<T>;
  constexpr int64_t chunk = 512;  // elements; five arrays of it stay in the first cache, so memory is walked once
  if (verdict && !verdict->finite) return;
  const A factor = verdict ? A(verdict->factor) : A(1);
  for (const AdamWItem<T>& item : items) {
    const AdamWFactors& f = item.factors;
    const A keep = A(f.keep), step_size = A(f.step_size), eps = A(f.eps), correction = A(f.sqrt_correction);
    const A new1 = A(1 - f.beta1), beta2 = A(f.beta2), new2 = A(1 - f.beta2);
    parallel_for(ctx.pool(), item.w.count(), 1 << 14, [&](int64_t begin, int64_t end) {
      [[maybe_unused]] A wide[chunk];  // weights of 16 bits, widened
      for (int64_t i = begin; i < end; i += chunk) {
        const int64_t n = std::min(chunk, end - i);
        A *const m = item.m.data + i, *const v = item.v.data + i;
        const A* const g = item.g.data + i;
        T* const w = item.w.data + i;
        const auto update = [&](A* wide_w) {
          detail::for_vectors<A>(0, n, [&](auto at) {
            const auto gv = factor * at(g);
            const auto mv = at(m) + new1 * (gv - at(m)), vv = beta2 * at(v) + new2 * (gv * gv);
            at.store(m, mv);
            at.store(v, vv);
            const auto change = step_size * mv / (detail::square_root<A>(vv) / correction + eps);
            at.store(wide_w, keep * at(wide_w) - change);
          });
        };
        if constexpr (std::same_as<T, A>) {
          update(w);
        } else {
          A* const from = item.master ? item.master.data + i : wide;
          if (!item.master)
            for (int64_t k = 0; k < n; ++k) wide[k] = static_cast<A>(w[k]);
          update(from);
          for (int64_t k = 0; k < n; ++k) {
            const auto words = [&] { return philox(seed, item.random + static_cast<uint64_t>(i + k) / 8, 2); };
            w[k] = master == Master::stochastic_rounding
                       ? detail::round_by_chance<T>(from[k], detail::bits16(words(), static_cast<int>((i + k) % 8)))
                       : T(from[k]);
          }
        }
      }
    });
  }
}

}  // namespace ft::inline FTLIB_ABI
