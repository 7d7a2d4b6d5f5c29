// optim/lion.hpp: Lion: sign of a momentum, half of AdamW's state.
#pragma once
#include <ftlib/optim/lion.shared.hpp>  // Master
#include <ftlib/optim/optimizer.hpp>    // NamedStates

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> class LionOptimizer;

/// Settings of Lion, with the paper's names and defaults but for the decay, which is off. Every element moves by the
/// whole rate, so rates are a third to a tenth of AdamW's, and decays as much larger. `master` is for weights of 16
/// bits alone.
struct Lion {
  float lr = 1e-4f;
  float beta1 = 0.9f;
  float beta2 = 0.99f;
  float weight_decay = 0.0f;
  Master master = Master::float32;

  template <Scalar T, Device D> using Optimizer = LionOptimizer<T, D>;
  void describe(Description& d) const;
};

/// EvoLved Sign Momentum (Chen et al., arXiv:2302.06675, algorithm 2). With gradient g:
///
///     w = (1 - lr weight_decay) w - lr sign(beta1 m + (1 - beta1) g)        m = beta2 m + (1 - beta2) g
///
/// sign(0) is 0. State: exp_avg and, for Master::float32 and weights of 16 bits, master.
template <Scalar T, Device D> class LionOptimizer final : public NamedStates<T, D> {
 public:
  explicit LionOptimizer(const Lion& config = {}, ParameterGroups groups = {});
  const Lion& config() const { return config_; }

 private:
  using typename NamedStates<T, D>::Array;
  using typename NamedStates<T, D>::States;
  using typename NamedStates<T, D>::Item;
  std::vector<Array> arrays(const Parameter<T, D>& w) const override;
  void begin(Context<D>& ctx, const Parameter<T, D>& w, const States& states) override;
  void apply(Context<D>& ctx, std::span<const Item> items, const Verdict* verdict) override;

  Lion config_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/optim/lion.inl.hpp>
#endif
