// optim/adamw8bit.cpu.hpp: one step of AdamW with moments in 8 bits, of all parameters, on the CPU.
#pragma once
#include <ftlib/optim/adamw8bit.shared.hpp>  // AdamW8bitItem, dynamic_code
#include <ftlib/optim/clip.shared.hpp>       // Verdict
#include <ftlib/optim/round.cpu.hpp>         // widen_weights, narrow_weights
#include <ftlib/tensor/context.cpu.hpp>      // Context<Cpu>

#include <algorithm>  // std::min, std::max
#include <cmath>      // std::sqrt
#include <span>       // std::span

namespace ft::inline FTLIB_ABI {

/// As adamw_update, over moments that are widened, changed, and rounded to the code again, block by block.
template <Scalar T>
void adamw8bit_update(Context<Cpu>& ctx, std::span<const AdamW8bitItem<T>> items, const Verdict* verdict, Master master,
                      uint64_t seed) {  // null: factor 1
  using A = accumulate_t<T>;
  static constexpr DynamicCode signed_code = dynamic_code(true), code = dynamic_code(false);
  if (verdict && !verdict->finite) return;
  const A factor = verdict ? A(verdict->factor) : A(1);
  for (const AdamW8bitItem<T>& item : items) {
    const AdamWFactors& f = item.factors;
    const A keep = A(f.keep), step_size = A(f.step_size), eps = A(f.eps), correction = A(f.sqrt_correction);
    const A beta1 = A(f.beta1), new1 = A(1 - f.beta1), beta2 = A(f.beta2), new2 = A(1 - f.beta2);
    const int64_t count = item.w.count(), blocks = (count + moments_block - 1) / moments_block;
    parallel_for(ctx.pool(), blocks, 32, [&](int64_t first, int64_t last) {
      A buffer[moments_block], m[moments_block], v[moments_block];
      for (int64_t block = first; block < last; ++block) {
        const int64_t i = block * moments_block, n = std::min(moments_block, count - i);
        A* const w = detail::widen_weights(item, i, n, buffer);
        const A m_scale = item.m_max[block], v_scale = item.v_max[block];
        A m_max = 0, v_max = 0;
        for (int64_t k = 0; k < n; ++k) {
          const A g = factor * item.g.data[i + k];
          m[k] = beta1 * m_scale * A(signed_code[item.m[i + k]]) + new1 * g;
          v[k] = beta2 * v_scale * A(code[item.v[i + k]]) + new2 * g * g;
          m_max = std::max(m_max, std::abs(m[k]));
          v_max = std::max(v_max, v[k]);
          w[k] = keep * w[k] - step_size * m[k] / (std::sqrt(v[k]) / correction + eps);
        }
        item.m_max[block] = static_cast<float>(m_max);
        item.v_max[block] = static_cast<float>(v_max);
        const A to_m = m_max > 0 ? 1 / m_max : 0, to_v = v_max > 0 ? 1 / v_max : 0;
        for (int64_t k = 0; k < n; ++k) {
          item.m[i + k] = detail::nearest_code(signed_code, static_cast<float>(m[k] * to_m));
          item.v[i + k] = detail::nearest_code(code, static_cast<float>(v[k] * to_v));
        }
        detail::narrow_weights(item, i, n, w, master, seed);
      }
    });
  }
}

}  // namespace ft::inline FTLIB_ABI
