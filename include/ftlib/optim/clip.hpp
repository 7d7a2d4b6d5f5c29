// optim/clip.hpp: what is done to gradients between backward and the optimizer's step.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/optim/clip.shared.hpp>   // Verdict
#if FTLIB_HEADER_ONLY
#include <ftlib/optim/clip.cpu.hpp>  // judge_gradients, scale_gradients
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/optim/clip.cuda.cuh>
#endif

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
    if (!w->grad.contiguous()) throw Error(str("clip_grad_norm: the gradient of '", w->name, "' is strided"));
    grads.push_back(w->grad.view());
  }
  return grads;
}
}  // namespace detail

/// The verdict on a step, made where its gradients lie; read() is what the host waits for, and may come after the
/// optimizer's step.
template <Device D> class StepCheck {
 public:
  explicit StepCheck(Context<D>& ctx) : memory_(ctx.allocate(sizeof(Verdict))) {
    const Verdict none;
    ctx.copy_from_host(memory_.get(), &none, sizeof none);
  }
  /// Counts a micro-batch's loss: a scalar.
  template <Scalar A> void add_loss(Context<D>& ctx, const Tensor<A, D>& loss) {
    ft::add_loss(ctx, get(), loss.view());
  }
  /// The norm of all gradients of `params` taken as one vector, summed in double, in the same order whatever the number
  /// of threads; and the factor that brings them to max_norm, as torch's clip_grad_norm_ does (0: no clipping), and
  /// takes loss_scale back, which backward began with.
  template <ParameterList Params>
  void measure(Context<D>& ctx, const Params& params, float max_norm, float loss_scale = 1) {
    const auto grads = detail::gradients_of(params);
    judge_gradients(ctx, get(), std::span(grads), double{max_norm}, double{loss_scale});
  }
  /// Waits for the device.
  Verdict read(Context<D>& ctx) const {
    Verdict v;
    ctx.copy_to_host(&v, memory_.get(), sizeof v);
    return v;
  }
  Verdict* get() { return static_cast<Verdict*>(memory_.get()); }
  const Verdict* get() const { return static_cast<const Verdict*>(memory_.get()); }

 private:
  std::shared_ptr<void> memory_;
};
template <Device D> StepCheck(Context<D>&) -> StepCheck<D>;

/// The Euclidean norm of all gradients of `params`, see StepCheck. Where it is above max_norm, gradients are multiplied
/// by max_norm / (norm + 1e-6). max_norm <= 0 only measures. A norm that is not finite is returned and leaves gradients
/// alone: the caller should skip the step.
template <Device D, ParameterList Params> float clip_grad_norm(Context<D>& ctx, const Params& params, float max_norm) {
  StepCheck check(ctx);
  check.measure(ctx, params, max_norm);
  const auto grads = detail::gradients_of(params);
  scale_gradients(ctx, std::span(grads), check.get());
  return check.read(ctx).norm;
}

/// Forgets the gradients of `params`: their memory is free for the next forward pass, and a parameter that gets none
/// in the next backward is left alone by the optimizer.
template <ParameterList Params> void zero_grad(const Params& params) {
  for (auto* w : params) w->grad = {};
}

}  // namespace ft::inline FTLIB_ABI
