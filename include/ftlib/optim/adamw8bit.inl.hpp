// optim/adamw8bit.inl.hpp: what optim/adamw8bit.hpp declares.
#pragma once
#include <ftlib/optim/adamw.inl.hpp>  // adamw_update, check_adamw, adamw_factors
#include <ftlib/optim/adamw8bit.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/optim/adamw8bit.cpu.hpp>  // adamw8bit_update
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/optim/adamw8bit.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE void AdamW8bit::describe(Description& d) const {
  d.add("optimizer", "AdamW8bit");
  detail::describe_adamw(d, *this);
  d.add("smallest", smallest);
}

template <Scalar T, Device D>
AdamW8bitOptimizer<T, D>::AdamW8bitOptimizer(const AdamW8bit& config, ParameterGroups groups)
    : NamedStates<T, D>("AdamW8bit", std::move(groups)), config_(config) {
  detail::check_adamw("AdamW8bit", config);
}

template <Scalar T, Device D>
auto AdamW8bitOptimizer<T, D>::arrays(const Parameter<T, D>& w) const -> std::vector<Array> {
  std::vector<Array> all;
  if (small(w)) {
    all = {{"exp_avg", this->wide, w.shape()}, {"exp_avg_sq", this->wide, w.shape()}};
  } else {
    const Shape blocks{(w.count() + moments_block - 1) / moments_block};
    all = {{"exp_avg", "U8", w.shape()},
           {"exp_avg_sq", "U8", w.shape()},
           {"exp_avg.max", "F32", blocks, moments_block},
           {"exp_avg_sq.max", "F32", blocks, moments_block}};
  }
  if (detail::keeps_master<T>(config_.master)) all.push_back({"master", this->wide, w.shape()});
  return all;
}

// Moments begin as 0: any code does, as the largest magnitude of each block is 0.
template <Scalar T, Device D>
void AdamW8bitOptimizer<T, D>::begin(Context<D>& ctx, const Parameter<T, D>& w, const States& states) {
  if (detail::keeps_master<T>(config_.master)) detail::begin_master(ctx, w, states.arrays.back().get());
}

template <Scalar T, Device D>
void AdamW8bitOptimizer<T, D>::apply(Context<D>& ctx, std::span<const Item> items, const Verdict* verdict) {
  using A = accumulate_t<T>;
  std::vector<AdamWItem<T>> full;
  std::vector<AdamW8bitItem<T>> narrow;
  for (const Item& item : items) {
    const Shape& shape = item.w.shape();
    const States& s = item.states;
    const AdamWFactors factors = detail::adamw_factors(config_, item.rate, item.decay, item.number);
    const uint64_t random = detail::rounding_counters(ctx, item.whole, item.begin, config_.master);
    const View<A> master =
        detail::keeps_master<T>(config_.master) ? View<A>(s.template data<A>(s.arrays.size() - 1), shape) : View<A>();
    if (small(item.whole))
      full.push_back({.w = item.w.value.view(),
                      .m = View<A>(s.template data<A>(0), shape),
                      .v = View<A>(s.template data<A>(1), shape),
                      .g = item.w.grad.view(),
                      .master = master,
                      .factors = factors,
                      .random = random});
    else
      narrow.push_back({.w = item.w.value.view(),
                        .m = s.template data<uint8_t>(0),
                        .v = s.template data<uint8_t>(1),
                        .m_max = s.template data<float>(2),
                        .v_max = s.template data<float>(3),
                        .g = item.w.grad.view(),
                        .master = master,
                        .factors = factors,
                        .random = random});
  }
  const uint64_t seed = ctx.random().seed();
  if (!full.empty()) adamw_update(ctx, std::span<const AdamWItem<T>>(full), verdict, config_.master, seed);
  if (!narrow.empty()) adamw8bit_update(ctx, std::span<const AdamW8bitItem<T>>(narrow), verdict, config_.master, seed);
}

}  // namespace ft::inline FTLIB_ABI
