// optim/ema.hpp: an exponential moving average of weights beside their training.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/optim/ema.cpu.hpp>       // move_towards
#include <ftlib/tensor/copy.hpp>         // clone

#include <algorithm>  // std::min
#include <span>       // std::span
#include <utility>    // std::swap
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// After each step n = 1, 2 ... : average += (1 - d) (weight - average), d = min(decay, (1 + n) / (10 + n)), so that
/// the random start is soon forgotten.    Polyak & Juditsky 1992; the ramp as TensorFlow's ExponentialMovingAverage
template <Scalar T, Device D> class WeightAverage {
 public:
  WeightAverage(Context<D>& ctx, std::span<Parameter<T, D>* const> params, float decay)
      : params_(params.begin(), params.end()), decay_(decay) {
    if (!(decay >= 0 && decay < 1)) throw Error(str("weight average: a decay of ", decay), "give 0 to 1, without 1.");
    for (const Parameter<T, D>* w : params_) averages_.push_back(clone(ctx, w->value));
  }
  /// After `step` steps, this one counted.
  void update(Context<D>& ctx, int64_t step) {
    const double n = static_cast<double>(step), decay = std::min(double{decay_}, (1 + n) / (10 + n));
    for (std::size_t i = 0; i < params_.size(); ++i)
      move_towards(ctx, averages_[i].view(), std::as_const(params_[i]->value).view(), 1 - decay);
  }
  /// The weights become the average and the average the weights: once to look, once more to go on training.
  void swap() {
    for (std::size_t i = 0; i < params_.size(); ++i) std::swap(params_[i]->value, averages_[i]);
  }
  std::vector<Tensor<T, D>>& averages() { return averages_; }

 private:
  std::vector<Parameter<T, D>*> params_;
  std::vector<Tensor<T, D>> averages_;
  float decay_;
};

}  // namespace ft::inline FTLIB_ABI
