// optim/lion.shared.hpp: what one Lion step works on, as its kernels take it on any device.
#pragma once
#include <ftlib/optim/adamw.shared.hpp>  // Master

namespace ft::inline FTLIB_ABI {

/// One parameter in a Lion step. Views are contiguous and of one shape.
template <Scalar T> struct LionItem {
  View<T> w;                      // any shape
  View<accumulate_t<T>> m;        // momentum
  View<const accumulate_t<T>> g;  // gradient
  View<accumulate_t<T>> master;   // empty but for Master::float32
  double keep;                    // 1 - lr weight_decay
  double rate;                    // lr
  double beta1, beta2;
  uint64_t random;  // element i is rounded by number i % 8 of philox(seed, random + i / 8, 2)
};

namespace detail {
/// w and m after one step with gradient g.
template <class A> constexpr void lion_step(A& w, A& m, A g, A keep, A rate, A beta1, A beta2) {
  const A c = beta1 * m + (1 - beta1) * g;
  w = keep * w - rate * static_cast<A>((c > 0) - (c < 0));
  m = beta2 * m + (1 - beta2) * g;
}
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
