// optim/adamw.cuda.cuh: one AdamW step of all parameters on the GPU, in one kernel.
#pragma once
#include <ftlib/optim/adamw.shared.hpp>  // AdamWItem
#include <ftlib/optim/list.cuda.cuh>      // upload_list, my_part
#include <ftlib/optim/stochastic.hpp>     // round_by_chance
#include <ftlib/optim/clip.shared.hpp>        // Verdict

#include <cmath>   // std::sqrt
#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

template <class A> struct AdamWStep {
  A keep, step_size, new1, beta2, new2, correction, eps;  // correction: 1 / sqrt_correction

  __device__ void operator()(A& w, A& m, A& v, A g) const {
    m += new1 * (g - m);
    v = beta2 * v + new2 * g * g;
    w = keep * w - step_size * m / (std::sqrt(v) * correction + eps);
  }
};

template <class T> struct AdamWEntry {
  T* w;
  accumulate_t<T>*m, *v;
  const accumulate_t<T>* g;
  accumulate_t<T>* master;
  int64_t count, first_block;
  uint64_t random;
  AdamWStep<accumulate_t<T>> step;
  bool aligned;
};

// V elements a thread: 16 bytes of each array of sums' type, and as many weights. Reads w, m, v and g and writes the
// first three once: 28 bytes an element of float, 24 of 16 bits, 30 where the master is read in the weight's place.
// 4 blocks run side by side, or 3 where weights are rounded: 48 KiB are on their way to a multiprocessor even then.
template <class T, Master master, int V>
__global__ void __launch_bounds__(block_size, master == Master::none ? 4 : 3)
    adamw_kernel(List<AdamWEntry<T>> list, const Verdict* verdict, uint64_t seed) {
  using A = accumulate_t<T>;
  if (verdict && !verdict->finite) return;
  const A factor = verdict ? static_cast<A>(verdict->factor) : A(1);
  const auto part = my_part(list);
  const AdamWEntry<T> e = part.entry;  // a copy, which no store can change
  for_each_pack_of<V>(part, e.aligned, [&](auto size, int64_t i) {
    constexpr int n = size();
    auto ms = load<n>(e.m + i), vs = load<n>(e.v + i);
    const auto gs = load<n>(e.g + i);
    Pack<A, n> wide;
    Pack<T, n> ws;
    if constexpr (master == Master::float32) wide = load<n>(e.master + i);
    else {
      ws = load<n>(e.w + i);
      for (int k = 0; k < n; ++k) wide.v[k] = widen(ws.v[k]);
    }
    for (int k = 0; k < n; ++k) e.step(wide.v[k], ms.v[k], vs.v[k], factor * gs.v[k]);
    store(e.m + i, ms);
    store(e.v + i, vs);
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

/// For each item, with g times the verdict's factor:  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
/// w = keep w - step_size m / (sqrt(v) / sqrt_correction + eps).  Nothing where the verdict is not finite.
template <Scalar T>
void adamw_update(Context<Cuda>& ctx, std::span<const AdamWItem<T>> items, const Verdict* verdict,  // null: factor 1
                  Master master, uint64_t seed) {
  using A = accumulate_t<T>;
  constexpr int V = detail::pack_size<A>;
  std::vector<detail::AdamWEntry<T>> entries;
  for (const AdamWItem<T>& item : items) {
    const AdamWFactors& f = item.factors;
    const detail::AdamWStep<A> step{A(f.keep),      A(f.step_size),           A(1 - f.beta1), A(f.beta2),
                                    A(1 - f.beta2), A(1 / f.sqrt_correction), A(f.eps)};
    entries.push_back({item.w.data, item.m.data, item.v.data, item.g.data, item.master.data, item.w.count(), 0,
                       item.random, step,
                       detail::aligned16(item.w.data, item.m.data, item.v.data, item.g.data, item.master.data)});
  }
  const auto list = detail::upload_list(ctx, std::move(entries));
  auto* kernel = detail::adamw_kernel<T, Master::none, V>;
  if constexpr (sizeof(T) == 2) {
    if (master == Master::float32) kernel = detail::adamw_kernel<T, Master::float32, V>;
    if (master == Master::stochastic_rounding) kernel = detail::adamw_kernel<T, Master::stochastic_rounding, V>;
  }
  launch(kernel, detail::grid_of(list.blocks), detail::block_size, 0, ctx.stream(), list.get(), verdict, seed);
}

}  // namespace ft::inline FTLIB_ABI
