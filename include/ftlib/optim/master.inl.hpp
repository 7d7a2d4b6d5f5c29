// optim/master.inl.hpp: the float that a trained weight of 16 bits may have beside it, for all optimizers.
#pragma once
#include <ftlib/optim/adamw.shared.hpp>  // Master
#include <ftlib/optim/optimizer.hpp>     // Parameter
#include <ftlib/tensor/copy.hpp>         // copy

namespace ft::inline FTLIB_ABI::detail {

template <Scalar T> constexpr bool keeps_master(Master master) { return sizeof(T) == 2 && master == Master::float32; }

/// Fills a new master with the weight.
template <Scalar T, Device D> void begin_master(Context<D>& ctx, const Parameter<T, D>& w, void* master) {
  copy(ctx, View<accumulate_t<T>>(static_cast<accumulate_t<T>*>(master), w.shape()), w.value.view());
}
/// Counters for rounding w's elements by chance, eight elements each: those from `begin` on, a multiple of eight.
template <Scalar T, Device D>
uint64_t rounding_counters(Context<D>& ctx, const Parameter<T, D>& w, int64_t begin, Master master) {
  const bool by_chance = sizeof(T) == 2 && master == Master::stochastic_rounding;
  if (!by_chance) return 0;
  return ctx.random().reserve((static_cast<uint64_t>(w.count()) + 7) / 8) + static_cast<uint64_t>(begin) / 8;
}
inline const char* master_name(Master master) {
  return master == Master::float32 ? "float32" : master == Master::none ? "none" : "stochastic rounding";
}

}  // namespace ft::inline FTLIB_ABI::detail
