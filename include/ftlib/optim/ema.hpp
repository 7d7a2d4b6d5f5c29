// optim/ema.hpp: an exponential moving average of weights beside their training.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/tensor/copy.hpp>         // convert
#if FTLIB_HEADER_ONLY
#include <ftlib/optim/ema.cpu.hpp>  // move_towards
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/optim/ema.cuda.cuh>
#endif

#include <algorithm>  // std::min
#include <span>       // std::span
#include <utility>    // std::exchange
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// After each step n = 1, 2 ... : average += (1 - d) (weight - average), d = min(decay, (1 + n) / (10 + n)), so that
/// the random start is soon forgotten. In the type that sums are kept in: steps towards a weight of 16 bits would be
/// lost in 16 bits.    Polyak & Juditsky 1992; the ramp as TensorFlow's ExponentialMovingAverage
template <Scalar T, Device D> class WeightAverage {
 public:
  using Average = Tensor<accumulate_t<T>, D>;

  WeightAverage(Context<D>& ctx, std::span<Parameter<T, D>* const> params, float decay)
      : ctx_(&ctx), params_(params.begin(), params.end()), decay_(decay) {
    if (!(decay >= 0 && decay < 1)) throw Error(str("weight average: a decay of ", decay), "give 0 to 1, without 1.");
    for (const Parameter<T, D>* w : params_) averages_.push_back(convert<accumulate_t<T>>(ctx, w->value));
  }
  /// After `step` steps, this one counted.
  void update(Context<D>& ctx, int64_t step) {
    const double n = static_cast<double>(step), decay = std::min(double{decay_}, (1 + n) / (10 + n));
    for (std::size_t i = 0; i < params_.size(); ++i)
      move_towards(ctx, averages_[i].view(), std::as_const(params_[i]->value).view(), 1 - decay);
  }
  /// The average comes in the weights' place, and at the next call they come back: to look, not to train.
  void swap() {
    const bool back = !weights_.empty();
    for (std::size_t i = 0; i < params_.size(); ++i)
      if (back) params_[i]->value = weights_[i];
      else weights_.push_back(std::exchange(params_[i]->value, as_weight(averages_[i])));
    if (back) weights_.clear();
  }
  /// The weights become the average: the end of a run.
  void assign() {
    for (std::size_t i = 0; i < params_.size(); ++i) params_[i]->value = convert<T>(*ctx_, averages_[i]);
  }
  std::vector<Average>& averages() { return averages_; }

 private:
  /// Shares the memory where the types are the same.
  Tensor<T, D> as_weight(const Average& average) {
    if constexpr (std::same_as<T, accumulate_t<T>>) return average;
    else return convert<T>(*ctx_, average);
  }

  Context<D>* ctx_;
  std::vector<Parameter<T, D>*> params_;
  std::vector<Average> averages_;
  std::vector<Tensor<T, D>> weights_;  // while the average is in their place
  float decay_;
};

}  // namespace ft::inline FTLIB_ABI
