// optim/adamw.hpp: AdamW: its settings, and the optimizer that keeps two moments for each trained parameter.
#pragma once
#include <ftlib/optim/adamw.shared.hpp>  // Master
#include <ftlib/optim/optimizer.hpp>     // NamedStates

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> class AdamWOptimizer;

/// Settings of AdamW, with torch.optim.AdamW's names and defaults but for the decay, which is off. `master` is for
/// weights of 16 bits alone.
struct AdamW {
  float lr = 1e-3f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float eps = 1e-8f;
  float weight_decay = 0.0f;
  Master master = Master::float32;

  template <Scalar T, Device D> using Optimizer = AdamWOptimizer<T, D>;
  void describe(Description& d) const;
};

/// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), number for number as torch.optim.AdamW.
/// With gradient g and the t-th step of this parameter:
///
///     m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
///     w = (1 - lr weight_decay) w - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
///
/// Decay is for matrices (Parameter::decays) unless the groups say otherwise. A parameter without a gradient keeps its
/// t. Weights of 16 bits are rounded after each step; see Master for what then becomes of small changes.
/// Master::float32 trains its floats, so a weight that is set from outside after its first step is set back by the
/// next. State: exp_avg, exp_avg_sq and, for Master::float32, master.
template <Scalar T, Device D> class AdamWOptimizer final : public NamedStates<T, D> {
 public:
  using typename Optimizer<T, D>::Params;
  explicit AdamWOptimizer(const AdamW& config = {}, ParameterGroups groups = {});
  const AdamW& config() const { return config_; }

 private:
  using typename NamedStates<T, D>::Array;
  using typename NamedStates<T, D>::States;
  using typename NamedStates<T, D>::Item;
  std::vector<Array> arrays(const Parameter<T, D>& w) const override;
  void begin(Context<D>& ctx, const Parameter<T, D>& w, const States& states) override;
  void apply(Context<D>& ctx, std::span<const Item> items, const Verdict* verdict) override;

  AdamW config_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/optim/adamw.inl.hpp>
#endif
