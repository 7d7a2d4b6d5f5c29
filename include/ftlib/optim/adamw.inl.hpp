// optim/adamw.inl.hpp: what optim/adamw.hpp declares.
#pragma once
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/master.inl.hpp>  // begin_master, rounding_counters
#include <ftlib/optim/optimizer.inl.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/optim/adamw.cpu.hpp>  // adamw_update
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/optim/adamw.cuda.cuh>
#endif

#include <cmath>  // std::pow, std::sqrt

namespace ft::inline FTLIB_ABI {

namespace detail {
// Of AdamW's settings, and those of its kin that have the same names.
template <class Settings> void describe_adamw(Description& d, const Settings& s) {
  d.add("lr", s.lr);
  d.add("beta1", s.beta1);
  d.add("beta2", s.beta2);
  d.add("eps", s.eps);
  d.add("weight_decay", s.weight_decay);
  d.add("master", master_name(s.master));
}
template <class Settings> void check_adamw(const char* name, const Settings& s) {
  check_setting(s.lr >= 0, name, "lr", s.lr, "0 or more");
  check_setting(s.beta1 >= 0 && s.beta1 < 1, name, "beta1", s.beta1, "in [0, 1)");
  check_setting(s.beta2 >= 0 && s.beta2 < 1, name, "beta2", s.beta2, "in [0, 1)");
  check_setting(s.eps >= 0, name, "eps", s.eps, "0 or more");
  check_setting(s.weight_decay >= 0, name, "weight_decay", s.weight_decay, "0 or more");
}
/// Of step `number`, from 1, of a parameter whose learning rate is `rate`.
template <class Settings> AdamWFactors adamw_factors(const Settings& s, double rate, double decay, int64_t number) {
  const double t = static_cast<double>(number);
  return {.keep = 1 - rate * decay * double{s.weight_decay},
          .step_size = rate / (1 - std::pow(double{s.beta1}, t)),
          .beta1 = double{s.beta1},
          .beta2 = double{s.beta2},
          .sqrt_correction = std::sqrt(1 - std::pow(double{s.beta2}, t)),
          .eps = double{s.eps}};
}
}  // namespace detail

FTLIB_INLINE void AdamW::describe(Description& d) const {
  d.add("optimizer", "AdamW");
  detail::describe_adamw(d, *this);
}

template <Scalar T, Device D>
AdamWOptimizer<T, D>::AdamWOptimizer(const AdamW& config, ParameterGroups groups)
    : NamedStates<T, D>("AdamW", std::move(groups)), config_(config) {
  detail::check_adamw("AdamW", config);
}

template <Scalar T, Device D> auto AdamWOptimizer<T, D>::arrays(const Parameter<T, D>& w) const -> std::vector<Array> {
  std::vector<Array> all{{"exp_avg", this->wide, w.shape()}, {"exp_avg_sq", this->wide, w.shape()}};
  if (detail::keeps_master<T>(config_.master)) all.push_back({"master", this->wide, w.shape()});
  return all;
}

template <Scalar T, Device D>
void AdamWOptimizer<T, D>::begin(Context<D>& ctx, const Parameter<T, D>& w, const States& states) {
  if (detail::keeps_master<T>(config_.master)) detail::begin_master(ctx, w, states.arrays[2].get());
}

template <Scalar T, Device D>
void AdamWOptimizer<T, D>::apply(Context<D>& ctx, std::span<const Item> items, const Verdict* verdict) {
  using A = accumulate_t<T>;
  std::vector<AdamWItem<T>> all;
  for (const Item& item : items) {
    const Shape& shape = item.w.shape();
    const auto array = [&](std::size_t i) { return View<A>(item.states.template data<A>(i), shape); };
    all.push_back({.w = item.w.value.view(),
                   .m = array(0),
                   .v = array(1),
                   .g = item.w.grad.view(),
                   .master = detail::keeps_master<T>(config_.master) ? array(2) : View<A>(),
                   .factors = detail::adamw_factors(config_, item.rate, item.decay, item.number),
                   .random = detail::rounding_counters(ctx, item.whole, item.begin, config_.master)});
  }
  adamw_update(ctx, std::span<const AdamWItem<T>>(all), verdict, config_.master, ctx.random().seed());
}

}  // namespace ft::inline FTLIB_ABI
