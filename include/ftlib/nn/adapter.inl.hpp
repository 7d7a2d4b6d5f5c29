// nn/adapter.inl.hpp: the bodies of nn/adapter.hpp.
#pragma once
#include <ftlib/nn/adapter.hpp>
#include <ftlib/ops/elementwise.hpp>  // add_scaled

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> const Overlay<T, D>* Overlay<T, D>::of(const Context<D>& ctx) {
  const auto* overlay = static_cast<const Overlay*>(ctx.overlay().get());
  return overlay && overlay->type == dtype_of<T> ? overlay : nullptr;
}
template <Scalar T, Device D> const typename Overlay<T, D>::Slot* Overlay<T, D>::find(const Parameter<T, D>& w) const {
  if (w.index < 0 || w.index >= static_cast<int64_t>(slots.size())) return nullptr;
  const Slot& slot = slots[static_cast<std::size_t>(w.index)];
  return slot.weight == &w ? &slot : nullptr;
}

template <Scalar T, Device D> Parameter<T, D>& in_use(Context<D>& ctx, Parameter<T, D>& w) {
  const auto* overlay = Overlay<T, D>::of(ctx);
  const auto* slot = overlay ? overlay->find(w) : nullptr;
  return slot && slot->replacement ? *slot->replacement : w;
}

template <Scalar T, Device D> bool adapted(const Context<D>& ctx, const Parameter<T, D>& w) {
  const auto* overlay = Overlay<T, D>::of(ctx);
  return overlay && overlay->find(w);
}

template <Scalar T, Device D>
Tensor<T, D> project(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias) {
  if (bias) bias = &in_use(ctx, *bias);
  const auto* overlay = Overlay<T, D>::of(ctx);
  const auto* slot = overlay ? overlay->find(w) : nullptr;
  if (!slot) return linear(ctx, x, w, bias);
  if (slot->replacement) return linear(ctx, x, *slot->replacement, bias);
  if (slot->uses.size() == 1) return slot->uses.front().adapter->linear(ctx, x, w, bias, slot->uses.front().strength);
  Tensor<T, D> y = linear(ctx, x, w, bias);
  for (const auto& [adapter, strength] : slot->uses) y = add_scaled(ctx, y, adapter->addition(ctx, x, w), strength);
  return y;
}

template <Scalar T, Device D>
Tensor<T, D> grouped_project(Context<D>& ctx, const Tensor<T, D>& x, std::vector<Parameter<T, D>>& ws,
                             const std::vector<int64_t>& starts, std::vector<Parameter<T, D>>& biases) {
  const auto all_in_use = [&](std::vector<Parameter<T, D>>& of) {
    std::vector<Parameter<T, D>*> all;
    for (auto& w : of) all.push_back(&in_use(ctx, w));
    return all;
  };
  Tensor<T, D> y = grouped_linear(ctx, x, all_in_use(ws), starts, all_in_use(biases));
  const auto* overlay = Overlay<T, D>::of(ctx);
  const auto* slot = overlay ? overlay->find(ws.front()) : nullptr;  // a stack's parts have one adapter
  if (slot && !slot->replacement)
    for (const auto& [adapter, strength] : slot->uses)
      y = add_scaled(ctx, y, adapter->grouped_addition(ctx, x, ws.front(), starts), strength);
  return y;
}

template <Scalar T, Device D> Tensor<T, D> dense(Context<D>& ctx, const Parameter<T, D>& w) {
  if (w.value) return clone(ctx, w.value);
  Tensor<T, D> value(ctx, w.shape());
  dequantise(ctx, value.view(), w.stored);
  return value;
}

}  // namespace ft::inline FTLIB_ABI
