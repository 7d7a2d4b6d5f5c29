// adapters/trained_copy.inl.hpp: the bodies of adapters/trained_copy.hpp.
#pragma once
#include <ftlib/adapters/lora.inl.hpp>
#include <ftlib/adapters/trained_copy.hpp>

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
Tensor<T, D> TrainedCopy<T, D>::linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w,
                                       Parameter<T, D>* bias, float strength) {
  if (strength == 1) return ft::linear(ctx, x, weight, bias);
  return add_scaled(ctx, ft::linear(ctx, x, w, bias), addition(ctx, x, w), strength);
}
template <Scalar T, Device D>
Tensor<T, D> TrainedCopy<T, D>::addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) {
  return sub(ctx, ft::linear(ctx, x, weight), ft::linear(ctx, x, w));
}
template <Scalar T, Device D>
std::shared_ptr<Adapter<T, D>> TrainedCopy<T, D>::copy(Context<D>& ctx, const Parameter<T, D>& w, float share) {
  auto twin = detail::frozen_copy(ctx, weight);
  if (share != 1)
    linear_combination(ctx, twin.value.view(), View<const T>(dense(ctx, w).view()), View<const T>(weight.value.view()),
                       T(1 - share), T(share));
  return std::make_shared<TrainedCopy>(std::move(twin));
}

}  // namespace ft::inline FTLIB_ABI
