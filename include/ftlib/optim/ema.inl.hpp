// optim/ema.inl.hpp: what optim/ema.hpp declares.
#pragma once
#include <ftlib/optim/ema.hpp>
#include <ftlib/tensor/copy.hpp>  // convert
#if FTLIB_HEADER_ONLY
#include <ftlib/optim/ema.cpu.hpp>  // move_towards
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/optim/ema.cuda.cuh>
#endif

#include <algorithm>  // std::min
#include <utility>    // std::exchange

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
WeightAverage<T, D>::WeightAverage(Context<D>& ctx, std::span<Parameter<T, D>* const> params, float decay)
    : ctx_(&ctx), params_(params.begin(), params.end()), decay_(decay) {
  if (!(decay >= 0 && decay < 1)) throw Error(str("weight average: a decay of ", decay), "give 0 to 1, without 1.");
  for (const Parameter<T, D>* w : params_) averages_.push_back(convert<accumulate_t<T>>(ctx, w->value));
}

template <Scalar T, Device D> void WeightAverage<T, D>::update(Context<D>& ctx, int64_t step) {
  const double n = static_cast<double>(step), decay = std::min(double{decay_}, (1 + n) / (10 + n));
  for (std::size_t i = 0; i < params_.size(); ++i)
    move_towards(ctx, averages_[i].view(), std::as_const(params_[i]->value).view(), 1 - decay);
}

template <Scalar T, Device D> void WeightAverage<T, D>::swap() {
  const bool back = !weights_.empty();
  for (std::size_t i = 0; i < params_.size(); ++i)
    if (back) params_[i]->value = weights_[i];
    else weights_.push_back(std::exchange(params_[i]->value, as_weight(averages_[i])));
  if (back) weights_.clear();
}

template <Scalar T, Device D> void WeightAverage<T, D>::assign() {
  for (std::size_t i = 0; i < params_.size(); ++i) params_[i]->value = convert<T>(*ctx_, averages_[i]);
}

// Shares the memory where the types are the same.
template <Scalar T, Device D> Tensor<T, D> WeightAverage<T, D>::as_weight(const Average& average) {
  if constexpr (std::same_as<T, accumulate_t<T>>) return average;
  else return convert<T>(*ctx_, average);
}

}  // namespace ft::inline FTLIB_ABI
