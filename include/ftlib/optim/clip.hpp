// optim/clip.hpp: what is done to gradients between backward and the optimizer's step.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/optim/clip.shared.hpp>   // Verdict

#include <memory>       // std::shared_ptr
#include <span>         // std::span
#include <type_traits>  // std::remove_cvref_t
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// A span or a container of pointers to parameters.
template <class R>
concept ParameterList = requires(const R& params) {
  (*params.begin())->grad.view();
};

namespace detail {
/// The gradients that `params` have, as views. Throws Error for a strided one.
template <ParameterList Params> auto gradients_of(const Params& params) {
  using A = typename std::remove_cvref_t<decltype((*params.begin())->grad)>::value_type;
  std::vector<View<A>> grads;
  for (auto* w : params) {
    if (!w->grad) continue;
    if (!w->grad.contiguous()) throw Error(str("gradients: that of '", w->name, "' is strided"));
    grads.push_back(w->grad.view());
  }
  return grads;
}
}  // namespace detail

/// The verdict on a step, made where its gradients lie; read() is what the host waits for, and may come after the
/// optimizer's step. Squares are summed first and judged then, so that ranks that share a step can add up what each has
/// of squares() in between.
template <Device D> class StepCheck {
 public:
  explicit StepCheck(Context<D>& ctx);
  /// Counts a micro-batch's loss: a scalar.
  template <Scalar A> void add_loss(Context<D>& ctx, const Tensor<A, D>& loss);
  /// Sums the squares of gradients, block by block, in double.
  template <Scalar A> void sum_squares(Context<D>& ctx, std::span<const View<A>> gradients);
  Tensor<double, D>& squares() { return squares_; }  // (blocks)  see squares_block
  /// The norm of all gradients taken as one vector, whose squares were summed, in the same order whatever the number of
  /// threads; and the factor that brings them to max_norm, as torch's clip_grad_norm_ does (0: no clipping), and takes
  /// loss_scale back, which backward began with.
  void judge(Context<D>& ctx, double max_norm, double loss_scale = 1);
  /// Both, of all gradients of `params`.
  template <ParameterList Params>
  void measure(Context<D>& ctx, const Params& params, float max_norm, float loss_scale = 1) {
    const auto gradients = detail::gradients_of(params);
    sum_squares(ctx, std::span(gradients));
    judge(ctx, double{max_norm}, double{loss_scale});
  }
  /// Waits for the device.
  Verdict read(Context<D>& ctx) const;
  Verdict* get() { return static_cast<Verdict*>(memory_.get()); }
  const Verdict* get() const { return static_cast<const Verdict*>(memory_.get()); }

 private:
  std::shared_ptr<void> memory_;
  Tensor<double, D> squares_;
};
template <Device D> StepCheck(Context<D>&) -> StepCheck<D>;

namespace detail {
template <Scalar A, Device D> float clip_grad_norm(Context<D>& ctx, std::span<const View<A>> gradients, float max_norm);
}

/// The Euclidean norm of all gradients of `params`, see StepCheck. Where it is above max_norm, gradients are multiplied
/// by max_norm / (norm + 1e-6). max_norm <= 0 only measures. A norm that is not finite is returned and leaves gradients
/// alone: the caller should skip the step.
template <Device D, ParameterList Params> float clip_grad_norm(Context<D>& ctx, const Params& params, float max_norm) {
  const auto gradients = detail::gradients_of(params);
  using A = std::remove_cvref_t<decltype(*gradients.front().data)>;
  return detail::clip_grad_norm<A>(ctx, std::span<const View<A>>(gradients), max_norm);
}

/// Forgets the gradients of `params`: their memory is free for the next forward pass, and a parameter that gets none
/// in the next backward is left alone by the optimizer.
template <ParameterList Params> void zero_grad(const Params& params) {
  for (auto* w : params) w->grad = {};
}

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/optim/clip.inl.hpp>
#endif
