// optim/clip.hpp: what is done to gradients between backward and the optimizer's step.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/optim/clip.cpu.hpp>      // sum_of_squares, scale_all
#if FTLIB_WITH_CUDA
#include <ftlib/optim/clip.cuda.cuh>
#endif

#include <cmath>        // std::sqrt, std::isfinite
#include <span>         // std::span
#include <type_traits>  // std::remove_cvref_t
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// A span or a container of pointers to parameters.
template <class R>
concept ParameterList = requires(const R& params) {
  (*params.begin())->grad.view();
};

/// The Euclidean norm of all gradients of `params` taken as one vector, summed in double, in the same order whatever
/// the number of threads. Where it is above max_norm, gradients are multiplied by max_norm / (norm + 1e-6), as torch's
/// clip_grad_norm_ does. max_norm <= 0 only measures. A norm that is not finite is returned and leaves gradients alone:
/// the caller should skip the step.
template <Device D, ParameterList Params> float clip_grad_norm(Context<D>& ctx, const Params& params, float max_norm) {
  using A = typename std::remove_cvref_t<decltype((*params.begin())->grad)>::value_type;
  std::vector<View<A>> grads;
  for (auto* w : params) {
    if (!w->grad) continue;
    if (!w->grad.contiguous()) throw Error(str("clip_grad_norm: the gradient of '", w->name, "' is strided"));
    grads.push_back(w->grad.view());
  }
  const std::span<const View<A>> all(grads);
  const auto norm = static_cast<float>(std::sqrt(sum_of_squares(ctx, all)));
  const double factor = double{max_norm} / (double{norm} + 1e-6);
  if (max_norm > 0 && std::isfinite(norm) && factor < 1) scale_all(ctx, all, factor);
  return norm;
}

/// Forgets the gradients of `params`: their memory is free for the next forward pass, and a parameter that gets none
/// in the next backward is left alone by the optimizer.
template <ParameterList Params> void zero_grad(const Params& params) {
  for (auto* w : params) w->grad = {};
}

}  // namespace ft::inline FTLIB_ABI
