// optim/round.cpu.hpp: trained weights on their way into an update in the type that sums are kept in, and back, on the
// CPU.
#pragma once
#include <ftlib/optim/adamw.shared.hpp>  // Master
#include <ftlib/optim/stochastic.hpp>    // round_by_chance

namespace ft::inline FTLIB_ABI::detail {

/// n weights from element i on: where they are trained. `buffer` holds them where nothing else does.
template <class Item, class A> A* widen_weights(const Item& item, int64_t i, int64_t n, A* buffer) {
  if constexpr (std::same_as<std::remove_cvref_t<decltype(*item.w.data)>, A>) {
    return item.w.data + i;
  } else {
    if (item.master) return item.master.data + i;
    for (int64_t k = 0; k < n; ++k) buffer[k] = static_cast<A>(item.w.data[i + k]);
    return buffer;
  }
}
/// The opposite, after the update of `from`.
template <class Item, class A>
void narrow_weights(const Item& item, int64_t i, int64_t n, const A* from, Master master, uint64_t seed) {
  using T = std::remove_cvref_t<decltype(*item.w.data)>;
  if constexpr (!std::same_as<T, A>) {
    T* const w = item.w.data + i;
    for (int64_t k = 0; k < n; ++k) {
      const auto words = [&] { return philox(seed, item.random + static_cast<uint64_t>(i + k) / 8, 2); };
      w[k] = master == Master::stochastic_rounding
                 ? round_by_chance<T>(from[k], bits16(words(), static_cast<int>((i + k) % 8)))
                 : T(from[k]);
    }
  }
}

}  // namespace ft::inline FTLIB_ABI::detail
