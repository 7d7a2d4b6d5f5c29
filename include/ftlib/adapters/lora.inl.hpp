// adapters/lora.inl.hpp: the bodies of adapters/lora.hpp.
#pragma once
#include <ftlib/adapters/lora.hpp>
#include <ftlib/nn/adapter.inl.hpp>
#include <ftlib/ops/dropout.hpp>      // dropout
#include <ftlib/ops/elementwise.hpp>  // add_scaled, scale

#include <cmath>  // std::sqrt

namespace ft::inline FTLIB_ABI {

namespace detail {
template <Scalar T, Device D>
[[gnu::cold]] std::pair<Parameter<T, D>, Parameter<T, D>> low_rank_factors(Context<D>& ctx, const std::string& module,
                                                                           int64_t out, int64_t in, int64_t rank,
                                                                           Random* random) {
  Parameter<T, D> a(module + ".lora_A.weight", Tensor<T, D>(ctx, {rank, in})),
      b(module + ".lora_B.weight", Tensor<T, D>(ctx, {out, rank}));
  if (random) {
    std::vector<T> init(static_cast<std::size_t>(rank * in));
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    for (T& v : init) v = static_cast<T>(static_cast<accumulate_t<T>>((2 * random->uniform() - 1) * bound));
    a.value = Tensor<T, D>(ctx, {rank, in}, init);
    fill(ctx, b.value.view(), T(0.0f));
  }
  a.kind = b.kind = WeightKind::linear;
  return {std::move(a), std::move(b)};
}
template <Scalar T, Device D>
[[gnu::cold]] std::pair<Parameter<T, D>, Parameter<T, D>> low_rank_factors(Context<D>& ctx, const Parameter<T, D>& w,
                                                                           const Lora& config, Random* random) {
  const std::string module = module_of(w.name);
  return low_rank_factors<T, D>(ctx, module, w.shape()[0], w.shape()[1], config.rank_of(module), random);
}
template <Scalar T, Device D> Tensor<T, D> scaled_copy(Context<D>& ctx, const Tensor<T, D>& x, float s) {
  if (s == 1) return clone(ctx, x);
  Tensor<T, D> y(ctx, x.shape());
  linear_combination(ctx, y.view(), x.view(), {}, T(s), T(0.0f));
  return y;
}
template <Scalar T, Device D> Parameter<T, D> frozen_copy(Context<D>& ctx, const Parameter<T, D>& w, float share) {
  Parameter<T, D> twin(w.name, scaled_copy(ctx, w.value, share), false);
  twin.kind = w.kind;
  return twin;
}
}  // namespace detail

template <Scalar T, Device D>
[[gnu::cold]] LoraAdapter<T, D>::LoraAdapter(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config,
                                             Random* random)
    : scale(config.scale_of(module_of(w.name))), dropout_(config.dropout) {
  std::tie(a, b) = detail::low_rank_factors(ctx, w, config, random);
}

template <Scalar T, Device D>
Tensor<T, D> LoraAdapter<T, D>::linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w,
                                       Parameter<T, D>* bias, float strength) {
  if (dropout_ == 0 || !ctx.tape()) return lora_linear(ctx, x, w, a, b, scale * strength, bias);
  const auto low = ft::linear(ctx, ft::linear(ctx, dropout(ctx, x, dropout_), a), b);
  return add_scaled(ctx, ft::linear(ctx, x, w, bias), low, scale * strength);
}
template <Scalar T, Device D>
Tensor<T, D> LoraAdapter<T, D>::addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>&) {
  const auto in = dropout_ > 0 && ctx.tape() ? dropout(ctx, x, dropout_) : x;
  return ft::scale(ctx, ft::linear(ctx, ft::linear(ctx, in, a), b), scale);
}
template <Scalar T, Device D> Tensor<T, D> LoraAdapter<T, D>::merged(Context<D>& ctx, const Parameter<T, D>& w) {
  Tensor<T, D> sum = dense(ctx, w);
  gemm(ctx, Write::add, w.shape()[0], w.shape()[1], a.shape()[0], sum.data(), w.shape()[1],
       DenseOperand<T>{b.value.data(), a.shape()[0], 1}, DenseOperand<T>{a.value.data(), w.shape()[1], 1},
       accumulate_t<T>(scale));
  return sum;
}
template <Scalar T, Device D>
std::shared_ptr<Adapter<T, D>> LoraAdapter<T, D>::copy(Context<D>& ctx, const Parameter<T, D>&, float share) {
  return std::make_shared<LoraAdapter>(detail::frozen_copy(ctx, a), detail::frozen_copy(ctx, b, share), scale,
                                       dropout_);
}

}  // namespace ft::inline FTLIB_ABI
