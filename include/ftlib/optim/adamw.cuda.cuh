// optim/adamw.cuda.cuh: one AdamW step of all parameters on the GPU, in one kernel.
#pragma once
#include <ftlib/optim/adamw_factors.hpp>  // AdamWItem
#include <ftlib/optim/list.cuda.cuh>      // upload_list, my_part
#include <ftlib/optim/stochastic.hpp>     // round_by_chance
#include <ftlib/optim/verdict.hpp>        // Verdict

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

// V weights a thread, and four of the floats beside them at a time: 16 bytes each, in few registers. Reads w, m, v and
// g and writes the first three once: 28 bytes an element of float, 24 of 16 bits, 30 where the master is read in the
// weight's place. At most 64 registers, which let 4 blocks run side by side; rounding by chance, which costs 10 rounds
// of Philox for 8 elements, takes more, and 3 blocks.
template <class T, Master master, int V>
__global__ void __launch_bounds__(block_size, master == Master::stochastic_rounding ? 3 : 0)
    adamw_kernel(List<AdamWEntry<T>> list, const Verdict* verdict, uint64_t seed) {
  using A = accumulate_t<T>;
  if (verdict && !verdict->finite) return;
  const A factor = verdict ? static_cast<A>(verdict->factor) : A(1);
  const auto part = my_part(list);
  const AdamWEntry<T>& e = part.entry;
  for_each_pack_of<V>(part, e.aligned, [&](auto size, int64_t i) {
    constexpr int n = size(), few = n < 4 ? n : 4;
    Pack<T, n> ws;
    if constexpr (master != Master::float32) ws = load<n>(e.w + i);
    [[maybe_unused]] std::array<uint32_t, 4> words;
    if constexpr (master == Master::stochastic_rounding)
      words = philox(seed, e.random + static_cast<uint64_t>(i) / 8, 2);
    for (int j = 0; j < n; j += few) {
      auto ms = load<few>(e.m + i + j), vs = load<few>(e.v + i + j);
      const auto gs = load<few>(e.g + i + j);
      Pack<A, few> wide;
      if constexpr (master == Master::float32) wide = load<few>(e.master + i + j);
      else
        for (int k = 0; k < few; ++k) wide.v[k] = widen(ws.v[j + k]);
      for (int k = 0; k < few; ++k) e.step(wide.v[k], ms.v[k], vs.v[k], factor * gs.v[k]);
      store(e.m + i + j, ms);
      store(e.v + i + j, vs);
      if constexpr (master == Master::float32) store(e.master + i + j, wide);
      for (int k = 0; k < few; ++k)
        if constexpr (master == Master::stochastic_rounding)
          ws.v[j + k] = round_by_chance<T>(wide.v[k], bits16(words, n == 8 ? j + k : static_cast<int>(i % 8)));
        else ws.v[j + k] = narrow<T>(wide.v[k]);
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
  constexpr int V = detail::pack_size<T>;
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
