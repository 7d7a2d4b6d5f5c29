// nn/adapter.hpp: Adapter, what changes a weight without touching it, and how a layer asks for the one that is in use.
//
// Weights are shared by sessions and only read. What a session has in use hangs in its Context (ContextBase::overlay),
// so that one session may answer with one adapter while another trains a second. A layer calls project() for a product
// with a weight and in_use() for any other weight (a norm's, an embedding), and never knows which adapter it was.
#pragma once
#include <ftlib/ops/grouped_linear.hpp>  // grouped_linear
#include <ftlib/ops/linear.hpp>          // linear
#include <ftlib/tensor/dequantise.hpp>   // dequantise

#include <functional>  // std::function
#include <memory>      // std::shared_ptr
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// A re-parameterisation of one weight: W becomes W'. LoRA and its kin derive (adapters/lora.hpp, adapters/dora.hpp).
/// To add one, write its file and give it a line in adapters/kinds.hpp.
template <Scalar T, Device D> class Adapter {
 public:
  virtual ~Adapter() = default;
  /// x W''^T + b with W'' = W + strength (W' - W), (..., in) -> (..., out); b may be null.
  virtual Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias,
                              float strength) = 0;
  /// x (W' - W)^T, what the adapter adds to x W^T: for a sum of adapters on one weight.
  virtual Tensor<T, D> addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) = 0;
  /// The same for each of a stack's matrices (Parameter::part_of), which rows [starts[i], starts[i + 1]) of x go
  /// through: (M, in) -> (M, out). `w` is that part of the first of them. Throws Error where the adapter is of one
  /// weight.
  virtual Tensor<T, D> grouped_addition(Context<D>&, const Tensor<T, D>&, const Parameter<T, D>& w,
                                        const std::vector<int64_t>&) {
    throw Error(str("adapter: '", w.name, "' has one that is for no stack of matrices"));
  }
  /// W' in the compute type, in memory of its own.
  virtual Tensor<T, D> merged(Context<D>& ctx, const Parameter<T, D>& w) = 0;
  /// Visits the adapter's own parameters. Their names are what they are called in files.
  virtual void visit(const std::function<void(Parameter<T, D>&)>& f) = 0;
  /// A copy with memory of its own, frozen, of which W' is W + share (W' - W).
  virtual std::shared_ptr<Adapter> copy(Context<D>& ctx, const Parameter<T, D>& w, float share) = 0;
  /// W' itself where the adapter holds it whole, so that anything may read it; null where it changes products alone.
  virtual Parameter<T, D>* replacement() { return nullptr; }
};

/// What hangs over a model's weights in a session: for each of them the adapters in use. Made by AdapterSet::use, and
/// never changed afterwards: a session that takes another adapter gets another overlay.
template <Scalar T, Device D> struct Overlay {
  struct Use {
    Adapter<T, D>* adapter;
    float strength;
  };
  struct Slot {
    const Parameter<T, D>* weight =
        nullptr;  // the one that this is for: an index of another model's weight finds nothing
    std::vector<Use> uses;
    Parameter<T, D>* replacement = nullptr;
  };
  DType type = dtype_of<T>;
  std::vector<Slot> slots;  // by Parameter::index

  /// The one in use; null where there is none, or it is for another compute type.
  static const Overlay* of(const Context<D>& ctx);
  /// What is in use on w; null where w is read as it is.
  const Slot* find(const Parameter<T, D>& w) const;
};

/// x W^T + b through what the session has in use on W and b: what every layer calls. (..., in) -> (..., out).
template <Scalar T, Device D>
Tensor<T, D> project(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias = nullptr);

/// x W_g^T + b_g for rows [starts[g], starts[g + 1]) of x, through what the session has in use: grouped_linear() of a
/// stack's matrices. (M, in) -> (M, out).
template <Scalar T, Device D>
Tensor<T, D> grouped_project(Context<D>& ctx, const Tensor<T, D>& x, std::vector<Parameter<T, D>>& ws,
                             const std::vector<int64_t>& starts, std::vector<Parameter<T, D>>& biases);

/// What stands in the place of a weight that is no factor of a product (a norm's, an embedding): itself, or what the
/// adapter in use has trained instead. Whatever reads such a weight asks this first.
template <Scalar T, Device D> Parameter<T, D>& in_use(Context<D>& ctx, Parameter<T, D>& w);

/// Whether the session has something in use on w.
template <Scalar T, Device D> bool adapted(const Context<D>& ctx, const Parameter<T, D>& w);

/// A stored weight in the compute type; a copy in any case.
template <Scalar T, Device D> Tensor<T, D> dense(Context<D>& ctx, const Parameter<T, D>& w);

/// What hung over the weights comes back at the end of the scope. OverlayScope(ctx, other) hangs another thing there
/// until then. AdaptersOff, with adapters/set.hpp, is the one that a host writes.
template <Device D> class OverlayScope {
 public:
  OverlayScope(Context<D>& ctx, std::shared_ptr<void> overlay)
      : ctx_(ctx), outer_(ctx.exchange_overlay(std::move(overlay))) {}
  ~OverlayScope() { ctx_.exchange_overlay(std::move(outer_)); }
  OverlayScope(const OverlayScope&) = delete;
  OverlayScope& operator=(const OverlayScope&) = delete;

 private:
  Context<D>& ctx_;
  std::shared_ptr<void> outer_;
};

/// The base alone, while it lives: a reference for preference tuning, or an answer without the adapter.
///
///     { const AdaptersOff off(lm); answer = lm.generate(prompt).rest(); }
template <Device D> class AdaptersOff : OverlayScope<D> {
 public:
  explicit AdaptersOff(Context<D>& ctx) : OverlayScope<D>(ctx, nullptr) {}
  template <class Model>
  requires requires(Model& m) { m.context(); }
  explicit AdaptersOff(Model& model) : AdaptersOff(model.context()) {}
};
template <Device D> AdaptersOff(Context<D>&) -> AdaptersOff<D>;
template <class Model>
requires requires(Model& m) { m.context(); }
AdaptersOff(Model&)->AdaptersOff<typename Model::device_type>;

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/nn/adapter.inl.hpp>
#endif
