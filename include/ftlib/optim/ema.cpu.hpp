// optim/ema.cpu.hpp: one array moved towards another, on the CPU.
#pragma once
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

namespace ft::inline FTLIB_ABI {

/// x += share (to - x) over contiguous arrays of one shape.
template <Scalar T> void move_towards(Context<Cpu>& ctx, View<accumulate_t<T>> x, View<const T> to, double share) {
  using A = accumulate_t<T>;
  const auto s = static_cast<A>(share);
  parallel_for(ctx.pool(), x.count(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x.data[i] += s * (static_cast<A>(to.data[i]) - x.data[i]);
  });
}

}  // namespace ft::inline FTLIB_ABI
