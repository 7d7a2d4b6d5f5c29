// optim/ema.hpp: an exponential moving average of weights beside their training.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/optim/share.hpp>         // Shares

#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// After each step n = 1, 2 ... : average += (1 - d) (weight - average), d = min(decay, (1 + n) / (10 + n)), so that
/// the random start is soon forgotten. In the type that sums are kept in: steps towards a weight of 16 bits would be
/// lost in 16 bits.    Polyak & Juditsky 1992; the ramp as TensorFlow's ExponentialMovingAverage
template <Scalar T, Device D> class WeightAverage {
 public:
  using Average = Tensor<accumulate_t<T>, D>;

  /// Where ranks share parameters out, each has its share's average, and all make the same calls of swap() and
  /// assign(), which bring them together.
  WeightAverage(Context<D>& ctx, std::span<Parameter<T, D>* const> params, float decay, Shares shares = {});
  /// After `step` steps, this one counted.
  void update(Context<D>& ctx, int64_t step);
  /// The average comes in the weights' place, and at the next call they come back: to look, not to train.
  void swap();
  /// The weights become the average: the end of a run.
  void assign();
  /// Of this rank's shares, see part().
  std::vector<Average>& averages() { return averages_; }

 private:
  std::vector<Tensor<T, D>> as_weights();
  template <Element V> Tensor<V, D> mine(const Tensor<V, D>& x, std::size_t i) const {
    return shares_.ranks() == 1 ? x : part(x, shares_.mine(i));
  }

  Context<D>* ctx_;
  std::vector<Parameter<T, D>*> params_;
  Shares shares_;
  std::vector<Average> averages_;
  std::vector<Tensor<T, D>> weights_;  // while the average is in their place
  float decay_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/optim/ema.inl.hpp>
#endif
