// optim/adamw8bit.hpp: AdamW with its moments in 8 bits: two bytes of state a parameter instead of eight.
#pragma once
#include <ftlib/optim/adamw8bit.shared.hpp>  // Master
#include <ftlib/optim/optimizer.hpp>         // NamedStates

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> class AdamW8bitOptimizer;

/// Settings of AdamW (optim/adamw.hpp). Parameters of fewer than `smallest` elements keep moments of full width, as
/// bitsandbytes has it: they take little, and among them are norms and biases.
struct AdamW8bit {
  float lr = 1e-3f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float eps = 1e-8f;
  float weight_decay = 0.0f;
  Master master = Master::float32;
  int64_t smallest = 4096;

  template <Scalar T, Device D> using Optimizer = AdamW8bitOptimizer<T, D>;
  void describe(Description& d) const;
};

/// AdamW whose moments are kept as 8 bits each and one largest magnitude for 256 of them: block-wise dynamic
/// quantisation, Dettmers et al., arXiv:2110.02861; codes and rounding are bitsandbytes'. A step widens a block,
/// changes it as AdamW does, and rounds it again to the nearest of 256 values. State: exp_avg, exp_avg_sq (U8),
/// exp_avg.max, exp_avg_sq.max; of small parameters what AdamW has; and master.
template <Scalar T, Device D> class AdamW8bitOptimizer final : public NamedStates<T, D> {
 public:
  explicit AdamW8bitOptimizer(const AdamW8bit& config = {}, ParameterGroups groups = {});
  const AdamW8bit& config() const { return config_; }

 private:
  using typename NamedStates<T, D>::Array;
  using typename NamedStates<T, D>::States;
  using typename NamedStates<T, D>::Item;
  std::vector<Array> arrays(const Parameter<T, D>& w) const override;
  void begin(Context<D>& ctx, const Parameter<T, D>& w, const States& states) override;
  void apply(Context<D>& ctx, std::span<const Item> items, const Verdict* verdict) override;
  bool small(const Parameter<T, D>& w) const { return w.count() < config_.smallest; }

  AdamW8bit config_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/optim/adamw8bit.inl.hpp>
#endif
