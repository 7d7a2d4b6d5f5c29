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
WeightAverage<T, D>::WeightAverage(Context<D>& ctx, std::span<Parameter<T, D>* const> params, float decay,
                                   Shares shares)
    : ctx_(&ctx), params_(params.begin(), params.end()), shares_(std::move(shares)), decay_(decay) {
  if (!(decay >= 0 && decay < 1)) throw Error(str("weight average: a decay of ", decay), "give 0 to 1, without 1.");
  for (std::size_t i = 0; i < params_.size(); ++i)
    averages_.push_back(convert<accumulate_t<T>>(ctx, mine(params_[i]->value, i)));
}

template <Scalar T, Device D> void WeightAverage<T, D>::update(Context<D>& ctx, int64_t step) {
  const double n = static_cast<double>(step), decay = std::min(double{decay_}, (1 + n) / (10 + n));
  for (std::size_t i = 0; i < params_.size(); ++i) {
    const Tensor<T, D> weight = mine(params_[i]->value, i);
    move_towards(ctx, averages_[i].view(), weight.view(), 1 - decay);
  }
}

template <Scalar T, Device D> void WeightAverage<T, D>::swap() {
  const bool back = !weights_.empty();
  auto others = back ? std::exchange(weights_, {}) : as_weights();
  for (std::size_t i = 0; i < params_.size(); ++i) std::swap(params_[i]->value, others[i]);
  if (!back) weights_ = std::move(others);
}

template <Scalar T, Device D> void WeightAverage<T, D>::assign() {
  const auto all = as_weights();
  for (std::size_t i = 0; i < params_.size(); ++i) params_[i]->value = clone(*ctx_, all[i]);
}

// Shares the memory where the types are the same, and no other rank has some of it.
template <Scalar T, Device D> std::vector<Tensor<T, D>> WeightAverage<T, D>::as_weights() {
  std::vector<Tensor<T, D>> all;
  for (std::size_t i = 0; i < params_.size(); ++i) {
    if constexpr (std::same_as<T, accumulate_t<T>>)
      if (shares_.ranks() == 1) {
        all.push_back(averages_[i]);
        continue;
      }
    Tensor<T, D> here = mine(all.emplace_back(*ctx_, params_[i]->shape()), i);
    copy(*ctx_, here.view(), std::as_const(averages_[i]).view());
  }
  gather_shares(*ctx_, shares_, all);
  return all;
}

}  // namespace ft::inline FTLIB_ABI
