// optim/lion.inl.hpp: what optim/lion.hpp declares.
#pragma once
#include <ftlib/optim/lion.hpp>
#include <ftlib/optim/master.inl.hpp>  // begin_master, rounding_counters
#include <ftlib/optim/optimizer.inl.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/optim/lion.cpu.hpp>  // lion_update
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/optim/lion.cuda.cuh>
#endif

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE void Lion::describe(Description& d) const {
  d.add("optimizer", "Lion");
  d.add("lr", lr);
  d.add("beta1", beta1);
  d.add("beta2", beta2);
  d.add("weight_decay", weight_decay);
  d.add("master", detail::master_name(master));
}

template <Scalar T, Device D>
LionOptimizer<T, D>::LionOptimizer(const Lion& config, ParameterGroups groups)
    : NamedStates<T, D>("Lion", std::move(groups)), config_(config) {
  detail::check_setting(config.lr >= 0, "Lion", "lr", config.lr, "0 or more");
  detail::check_setting(config.beta1 >= 0 && config.beta1 < 1, "Lion", "beta1", config.beta1, "in [0, 1)");
  detail::check_setting(config.beta2 >= 0 && config.beta2 < 1, "Lion", "beta2", config.beta2, "in [0, 1)");
  detail::check_setting(config.weight_decay >= 0, "Lion", "weight_decay", config.weight_decay, "0 or more");
}

template <Scalar T, Device D> auto LionOptimizer<T, D>::arrays(const Parameter<T, D>& w) const -> std::vector<Array> {
  std::vector<Array> all{{"exp_avg", this->wide, w.shape()}};
  if (detail::keeps_master<T>(config_.master)) all.push_back({"master", this->wide, w.shape()});
  return all;
}

template <Scalar T, Device D>
void LionOptimizer<T, D>::begin(Context<D>& ctx, const Parameter<T, D>& w, const States& states) {
  if (detail::keeps_master<T>(config_.master)) detail::begin_master(ctx, w, states.arrays[1].get());
}

template <Scalar T, Device D>
void LionOptimizer<T, D>::apply(Context<D>& ctx, std::span<const Item> items, const Verdict* verdict) {
  using A = accumulate_t<T>;
  std::vector<LionItem<T>> all;
  for (const Item& item : items) {
    const auto array = [&](std::size_t i) { return View<A>(item.states.template data<A>(i), item.w.shape()); };
    all.push_back({.w = item.w.value.view(),
                   .m = array(0),
                   .g = item.w.grad.view(),
                   .master = detail::keeps_master<T>(config_.master) ? array(1) : View<A>(),
                   .keep = 1 - item.rate * item.decay * double{config_.weight_decay},
                   .rate = item.rate,
                   .beta1 = double{config_.beta1},
                   .beta2 = double{config_.beta2},
                   .random = detail::rounding_counters(ctx, item.whole, item.begin, config_.master)});
  }
  lion_update(ctx, std::span<const LionItem<T>>(all), verdict, config_.master, ctx.random().seed());
}

}  // namespace ft::inline FTLIB_ABI
