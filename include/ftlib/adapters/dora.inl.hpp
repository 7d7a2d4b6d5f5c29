// adapters/dora.inl.hpp: the bodies of adapters/dora.hpp.
#pragma once
#include <ftlib/adapters/dora.hpp>
#include <ftlib/adapters/lora.inl.hpp>
#include <ftlib/ops/dora.hpp>  // inverse_row_norms, scale_columns

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
[[gnu::cold]] DoraAdapter<T, D>::DoraAdapter(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config,
                                             Random* random)
    : scale(config.scale_of(module_of(w.name))), dropout_(config.dropout) {
  std::tie(a, b) = detail::low_rank_factors(ctx, w, config, random);
  m = Parameter<T, D>(module_of(w.name) + ".lora_magnitude_vector", Tensor<T, D>(ctx, {w.shape()[0]}));
  if (!random) return;
  std::vector<T> norms;
  for (const auto inverse : inverse_row_norms(ctx, w, a, b, 0).to_host(ctx))
    norms.push_back(static_cast<T>(inverse < 1e14f ? 1 / inverse : 0));
  m.value = Tensor<T, D>(ctx, m.shape(), norms);
}

template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> DoraAdapter<T, D>::inverse_norms(Context<D>& ctx, const Parameter<T, D>& w) {
  if (a.trainable || b.trainable) return inverse_row_norms(ctx, w, a, b, scale);
  const std::lock_guard lock(mutex_);
  if (!inverse_) {
    inverse_ = inverse_row_norms(ctx, w, a, b, scale);
    ctx.synchronize();  // another session's stream may read it next
  }
  return inverse_;
}

template <Scalar T, Device D>
Tensor<T, D> DoraAdapter<T, D>::linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w,
                                       Parameter<T, D>* bias, float strength) {
  if (strength == 1 && (dropout_ == 0 || !ctx.tape()))
    return scale_columns(ctx, lora_linear(ctx, x, w, a, b, scale), m, inverse_norms(ctx, w), bias);
  return add_scaled(ctx, ft::linear(ctx, x, w, bias), addition(ctx, x, w), strength);
}
template <Scalar T, Device D>
Tensor<T, D> DoraAdapter<T, D>::addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) {
  const auto in = dropout_ > 0 && ctx.tape() ? dropout(ctx, x, dropout_) : x;
  return sub(ctx, scale_columns(ctx, lora_linear(ctx, in, w, a, b, scale), m, inverse_norms(ctx, w)),
             ft::linear(ctx, in, w));
}
template <Scalar T, Device D> Tensor<T, D> DoraAdapter<T, D>::merged(Context<D>& ctx, const Parameter<T, D>& w) {
  const auto inverse = inverse_norms(ctx, w).to_host(ctx);
  const auto length = m.value.to_host(ctx);
  const int64_t out = w.shape()[0], in = w.shape()[1], R = a.shape()[0];
  // Rows of W and of B times m / n on the host: merging is rare.
  auto rows = dense(ctx, w).to_host(ctx);
  auto low = b.value.to_host(ctx);
  for (int64_t o = 0; o < out; ++o) {
    const auto at = static_cast<std::size_t>(o);
    const auto g = static_cast<accumulate_t<T>>(length[at]) * inverse[at];
    const auto turn = [g](T& v) { v = static_cast<T>(static_cast<accumulate_t<T>>(v) * g); };
    for (int64_t i = 0; i < in; ++i) turn(rows[static_cast<std::size_t>(o * in + i)]);
    for (int64_t i = 0; i < R; ++i) turn(low[static_cast<std::size_t>(o * R + i)]);
  }
  Tensor<T, D> sum(ctx, {out, in}, rows);
  const Tensor<T, D> scaled(ctx, {out, R}, low);
  gemm(ctx, Write::add, out, in, R, sum.data(), in, DenseOperand<T>{scaled.data(), R, 1},
       DenseOperand<T>{a.value.data(), in, 1}, accumulate_t<T>(scale));
  return sum;
}
template <Scalar T, Device D>
std::shared_ptr<Adapter<T, D>> DoraAdapter<T, D>::copy(Context<D>& ctx, const Parameter<T, D>& w, float share) {
  auto a2 = detail::frozen_copy(ctx, a), b2 = detail::frozen_copy(ctx, b), m2 = detail::frozen_copy(ctx, m);
  if (share != 1) {
    const auto inverse = inverse_norms(ctx, w).to_host(ctx);
    auto low = b.value.to_host(ctx), length = m.value.to_host(ctx);
    const auto out = static_cast<std::size_t>(b.shape()[0]), R = static_cast<std::size_t>(b.shape()[1]);
    using A = accumulate_t<T>;
    std::vector<A> c(out);
    for (std::size_t o = 0; o < out; ++o) {
      const A part = A(share) * static_cast<A>(length[o]) * inverse[o];
      c[o] = 1 - A(share) + part;
      for (std::size_t i = 0; i < R; ++i)
        low[o * R + i] = static_cast<T>(c[o] == 0 ? A(0) : static_cast<A>(low[o * R + i]) * part / c[o]);
    }
    b2.value = Tensor<T, D>(ctx, b.shape(), low);
    const auto after = inverse_row_norms(ctx, w, a2, b2, scale).to_host(ctx);  // m' = c ||W + s B' A||
    for (std::size_t o = 0; o < out; ++o) length[o] = static_cast<T>(after[o] < A(1e14f) ? c[o] / after[o] : A(0));
    m2.value = Tensor<T, D>(ctx, m.shape(), length);
  }
  return std::make_shared<DoraAdapter>(std::move(a2), std::move(b2), std::move(m2), scale, dropout_);
}

}  // namespace ft::inline FTLIB_ABI
