// train/trainable.hpp: Trainable, what a trainer trains: parameters, and the loss of a micro-batch.
//
// To add an objective: derive, keep the model by reference, and say what a micro-batch costs. docs/training.md has
// some.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/train/data_source.hpp>   // MicroBatch, DataLimits

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// A loss: one number, in the compute type or in the one that sums are kept in.
template <Scalar T, Device D> class Loss {
 public:
  Loss(Tensor<T, D> sum) : narrow_(std::move(sum)) {}
  Loss(Tensor<accumulate_t<T>, D> sum) requires(!std::same_as<T, accumulate_t<T>>) : wide_(std::move(sum)) {}

  /// f(the tensor, of whichever type)
  template <class F> auto visit(F f) const { return narrow_ ? f(narrow_) : f(wide_); }
  double item(Context<D>& ctx) const {
    return visit([&](const auto& sum) { return static_cast<double>(static_cast<accumulate_t<T>>(sum.item(ctx))); });
  }

 private:
  Tensor<T, D> narrow_;
  Tensor<accumulate_t<T>, D> wide_;
};

/// What a trainer trains. A model is one, and so is an objective around one or several models.
template <Scalar T, Device D> class Trainable {
 public:
  virtual ~Trainable() = default;
  virtual Context<D>& context() = 0;
  /// All of them, always the same ones in the same order while a trainer uses them; the trainable ones are trained, the
  /// others are part of what a resumed run must find again.
  virtual std::vector<Parameter<T, D>*> parameters() = 0;
  /// The sum over a micro-batch's targets of their losses: a scalar on the tape of context(). The step divides the sum
  /// of all micro-batches by the batch's targets. With `recompute`, activations may be forgotten and computed again.
  virtual Loss<T, D> loss_sum(const MicroBatch& micro, bool recompute) = 0;
  /// Adds whatever decides the loss beside parameters and data: an adapter's scale and dropout, an objective's
  /// settings.
  virtual void describe(Description&) const {}
  /// Throws Error where the model cannot read such data.
  virtual void check(const DataLimits&) {}
};

}  // namespace ft::inline FTLIB_ABI
