// optim/lion.cuda.cuh: one Lion step of all parameters on the GPU, in one kernel.
#pragma once
#include <ftlib/optim/clip.shared.hpp>  // Verdict
#include <ftlib/optim/lion.shared.hpp>  // LionItem, lion_step
#include <ftlib/optim/list.cuda.cuh>    // upload_list, my_part
#include <ftlib/optim/stochastic.hpp>   // round_by_chance

#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

template <class T> struct LionEntry {
  using A = accumulate_t<T>;
  T* w;
  A* m;
  const A* g;
  A* master;
  int64_t count, first_block;
  uint64_t random;
  A keep, rate, beta1, beta2;
  bool aligned;
};

// V elements a thread: 16 bytes of each array of sums' type, and as many weights. Reads w, m and g and writes the first
// two once: 20 bytes an element of float.
template <class T, Master master, int V>
__global__ void __launch_bounds__(block_size, master == Master::none ? 4 : 3)
    lion_kernel(List<LionEntry<T>> list, const Verdict* verdict, uint64_t seed) {
  using A = accumulate_t<T>;
  if (verdict && !verdict->finite) return;
  const A factor = verdict ? static_cast<A>(verdict->factor) : A(1);
  const auto part = my_part(list);
  const LionEntry<T> e = part.entry;  // a copy, which no store can change
  for_each_pack_of<V>(part, e.aligned, [&](auto size, int64_t i) {
    constexpr int n = size();
    auto ms = load<n>(e.m + i);
    const auto gs = load<n>(e.g + i);
    Pack<A, n> wide;
    Pack<T, n> ws;
    if constexpr (master == Master::float32) wide = load<n>(e.master + i);
    else {
      ws = load<n>(e.w + i);
      for (int k = 0; k < n; ++k) wide.v[k] = widen(ws.v[k]);
    }
    for (int k = 0; k < n; ++k) lion_step(wide.v[k], ms.v[k], factor * gs.v[k], e.keep, e.rate, e.beta1, e.beta2);
    store(e.m + i, ms);
    if constexpr (master == Master::float32) store(e.master + i, wide);
    if constexpr (master == Master::stochastic_rounding) {
      const auto words = philox(seed, e.random + static_cast<uint64_t>(i) / 8, 2);
      for (int k = 0; k < n; ++k) ws.v[k] = round_by_chance<T>(wide.v[k], bits16(words, static_cast<int>(i % 8) + k));
    } else {
      for (int k = 0; k < n; ++k) ws.v[k] = narrow<T>(wide.v[k]);
    }
    store(e.w + i, ws);
  });
}

}  // namespace detail

/// For each item, with g times the verdict's factor:  w = keep w - rate sign(beta1 m + (1 - beta1) g);
/// m = beta2 m + (1 - beta2) g.  Nothing where the verdict is not finite.
template <Scalar T>
void lion_update(Context<Cuda>& ctx, std::span<const LionItem<T>> items, const Verdict* verdict,  // null: factor 1
                 Master master, uint64_t seed) {
  using A = accumulate_t<T>;
  constexpr int V = detail::pack_size<A>;
  std::vector<detail::LionEntry<T>> entries;
  for (const LionItem<T>& item : items)
    entries.push_back({item.w.data, item.m.data, item.g.data, item.master.data, item.w.count(), 0, item.random,
                       A(item.keep), A(item.rate), A(item.beta1), A(item.beta2),
                       detail::aligned16(item.w.data, item.m.data, item.g.data, item.master.data)});
  const auto list = detail::upload_list(ctx, std::move(entries));
  auto* kernel = detail::lion_kernel<T, Master::none, V>;
  if constexpr (sizeof(T) == 2) {
    if (master == Master::float32) kernel = detail::lion_kernel<T, Master::float32, V>;
    if (master == Master::stochastic_rounding) kernel = detail::lion_kernel<T, Master::stochastic_rounding, V>;
  }
  launch(kernel, detail::grid_of(list.blocks), detail::block_size, 0, ctx.stream(), list.get(), verdict, seed);
}

}  // namespace ft::inline FTLIB_ABI
