// optim/lion.cpu.hpp: one Lion step of all parameters on the CPU.
#pragma once
#include <ftlib/optim/clip.shared.hpp>   // Verdict
#include <ftlib/optim/lion.shared.hpp>   // LionItem, lion_step
#include <ftlib/optim/round.cpu.hpp>     // widen_weights, narrow_weights
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>

#include <algorithm>  // std::min
#include <span>       // std::span

namespace ft::inline FTLIB_ABI {

/// For each item, with g times the verdict's factor:  w = keep w - rate sign(beta1 m + (1 - beta1) g);
/// m = beta2 m + (1 - beta2) g.  Nothing where the verdict is not finite.
template <Scalar T>
void lion_update(Context<Cpu>& ctx, std::span<const LionItem<T>> items, const Verdict* verdict,  // null: factor 1
                 Master master, uint64_t seed) {
  using A = accumulate_t<T>;
  constexpr int64_t chunk = 512;
  if (verdict && !verdict->finite) return;
  const A factor = verdict ? A(verdict->factor) : A(1);
  for (const LionItem<T>& item : items) {
    const A keep = A(item.keep), rate = A(item.rate), beta1 = A(item.beta1), beta2 = A(item.beta2);
    parallel_for(ctx.pool(), item.w.count(), 1 << 14, [&](int64_t begin, int64_t end) {
      A buffer[chunk];
      for (int64_t i = begin; i < end; i += chunk) {
        const int64_t n = std::min(chunk, end - i);
        A* const w = detail::widen_weights(item, i, n, buffer);
        A* const m = item.m.data + i;
        const A* const g = item.g.data + i;
        for (int64_t k = 0; k < n; ++k) detail::lion_step(w[k], m[k], factor * g[k], keep, rate, beta1, beta2);
        detail::narrow_weights(item, i, n, w, master, seed);
      }
    });
  }
}

}  // namespace ft::inline FTLIB_ABI
