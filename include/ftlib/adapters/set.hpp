// adapters/set.hpp: what of a model learns: all of it, or adapters that hang on it; taking adapters off, or folding
// them in.
#pragma once
#include <ftlib/nn/adapter.hpp>  // Adapter, dense

#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// `base`, and behind it the parameters of its adapters.
template <Scalar T, Device D> std::vector<Parameter<T, D>*> with_adapters(std::span<Parameter<T, D>* const> base) {
  std::vector<Parameter<T, D>*> all(base.begin(), base.end());
  for (const Parameter<T, D>* w : base)
    if (w->adapter) w->adapter->visit([&](Parameter<T, D>& own) { all.push_back(&own); });
  return all;
}

/// Takes the adapters off.
template <Scalar T, Device D> void detach(std::span<Parameter<T, D>* const> base) {
  for (Parameter<T, D>* w : base) w->adapter.reset();
}

/// Full fine-tuning: takes the adapters off, brings every weight into the compute type, and lets it learn.
template <Scalar T, Device D> void train_all(Context<D>& ctx, std::span<Parameter<T, D>* const> base) {
  detach(base);
  for (Parameter<T, D>* w : base) {
    if (!w->value) w->value = dense(ctx, *w);
    w->stored = {};
    w->trainable = true;
  }
}

/// Folds the adapters into the weights, which are in the compute type from then on. Throws Error where there is none.
template <Scalar T, Device D> void merge(Context<D>& ctx, std::span<Parameter<T, D>* const> base) {
  bool any = false;
  for (Parameter<T, D>* w : base) {
    if (!w->adapter) continue;
    w->value = w->adapter->merged(ctx, *w);
    w->stored = {};
    any = true;
  }
  if (!any) throw Error("merge: there is no adapter");
  detach(base);
}

}  // namespace ft::inline FTLIB_ABI
