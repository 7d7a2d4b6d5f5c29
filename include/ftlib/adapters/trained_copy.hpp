// adapters/trained_copy.hpp: a weight trained whole beside an adapter (PEFT's modules_to_save): the adapter's own copy
// stands in its place, so that the base stays what it was.
#pragma once
#include <ftlib/adapters/lora.hpp>  // frozen_copy

namespace ft::inline FTLIB_ABI {

/// W' is a parameter of its own, called as W is. Goes where factors go and where they do not: norms, biases,
/// embeddings, the head.
template <Scalar T, Device D> class TrainedCopy final : public Adapter<T, D> {
 public:
  explicit TrainedCopy(Parameter<T, D> own) : weight(std::move(own)) {}
  /// A copy of w in the compute type, to be trained.
  TrainedCopy(Context<D>& ctx, const Parameter<T, D>& w) : weight(w.name, dense(ctx, w)) { weight.kind = w.kind; }

  Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias,
                      float strength) override;
  Tensor<T, D> addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) override;
  Tensor<T, D> merged(Context<D>& ctx, const Parameter<T, D>&) override { return clone(ctx, weight.value); }
  void visit(const std::function<void(Parameter<T, D>&)>& f) override { f(weight); }
  std::shared_ptr<Adapter<T, D>> copy(Context<D>& ctx, const Parameter<T, D>& w, float share) override;
  Parameter<T, D>* replacement() override { return &weight; }

  Parameter<T, D> weight;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/trained_copy.inl.hpp>
#endif
