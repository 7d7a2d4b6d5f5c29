// optim/adamw.cpu.hpp: one AdamW step of one parameter on the CPU.
#pragma once
#include <ftlib/optim/adamw_factors.hpp>  // AdamWFactors
#include <ftlib/tensor/context.cpu.hpp>   // Context<Cpu>
#include <ftlib/tensor/view.hpp>          // View, In

#include <algorithm>   // std::min
#include <Eigen/Core>  // vectorised arithmetic with square root and division

namespace ft::inline FTLIB_ABI {

/// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
/// w = keep w - step_size m / (sqrt(v) / sqrt_correction + eps).  Views are contiguous and of one shape. Elements do
/// not depend on one another, so the result does not depend on the number of threads.
template <Scalar T>
void adamw_update(Context<Cpu>& ctx,
                  View<T> w,                // any shape
                  View<accumulate_t<T>> m,  // first moment
                  View<accumulate_t<T>> v,  // second moment
                  In<accumulate_t<T>> g,    // gradient
                  const AdamWFactors& factors) {
  using A = accumulate_t<T>;
  using Array = Eigen::Array<A, Eigen::Dynamic, 1>;
  constexpr int64_t chunk = 512;  // elements; five arrays of it stay in the first cache, so memory is walked once
  const A keep = A(factors.keep), step_size = A(factors.step_size), eps = A(factors.eps);
  const A new1 = A(1 - factors.beta1), beta2 = A(factors.beta2), new2 = A(1 - factors.beta2);
  const A correction = A(factors.sqrt_correction);
  parallel_for(ctx.pool(), w.count(), 1 << 14, [&](int64_t begin, int64_t end) {
    [[maybe_unused]] A wide[chunk];  // weights of 16 bits, widened
    for (int64_t i = begin; i < end; i += chunk) {
      const int64_t n = std::min(chunk, end - i);
      Eigen::Map<Array> mi(m.data + i, n), vi(v.data + i, n);
      const Eigen::Map<const Array> gi(g.data + i, n);
      mi += new1 * (gi - mi);
      vi = beta2 * vi + new2 * gi.square();
      const auto change = step_size * mi / (vi.sqrt() / correction + eps);
      if constexpr (std::same_as<T, A>) {
        Eigen::Map<Array> wi(w.data + i, n);
        wi = keep * wi - change;
      } else {
        for (int64_t k = 0; k < n; ++k) wide[k] = static_cast<A>(w.data[i + k]);
        Eigen::Map<Array> wi(wide, n);
        wi = keep * wi - change;
        for (int64_t k = 0; k < n; ++k) w.data[i + k] = T(wide[k]);
      }
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
