// optim/clip.inl.hpp: what optim/clip.hpp declares.
#pragma once
#include <ftlib/optim/clip.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/optim/clip.cpu.hpp>  // block_squares, judge_squares, scale_gradients
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/optim/clip.cuda.cuh>
#endif

#include <utility>  // std::as_const

namespace ft::inline FTLIB_ABI {

template <Device D> StepCheck<D>::StepCheck(Context<D>& ctx) : memory_(ctx.allocate(sizeof(Verdict))) {
  const Verdict none;
  ctx.copy_from_host(memory_.get(), &none, sizeof none);
}

template <Device D> template <Scalar A> void StepCheck<D>::add_loss(Context<D>& ctx, const Tensor<A, D>& loss) {
  ft::add_loss(ctx, get(), loss.view());
}

template <Device D>
template <Scalar A>
void StepCheck<D>::sum_squares(Context<D>& ctx, std::span<const View<A>> gradients) {
  int64_t blocks = 0;
  for (const View<A>& g : gradients) blocks += (g.count() + squares_block<D> - 1) / squares_block<D>;
  squares_ = Tensor<double, D>(ctx, {blocks});
  block_squares(ctx, squares_.view(), gradients);
}

template <Device D> void StepCheck<D>::judge(Context<D>& ctx, double max_norm, double loss_scale) {
  judge_squares(ctx, get(), std::as_const(squares_).view(), max_norm, loss_scale);
}

template <Device D> Verdict StepCheck<D>::read(Context<D>& ctx) const {
  Verdict v;
  ctx.copy_to_host(&v, memory_.get(), sizeof v);
  return v;
}

template <Scalar A, Device D>
float detail::clip_grad_norm(Context<D>& ctx, std::span<const View<A>> gradients, float max_norm) {
  StepCheck<D> check(ctx);
  check.sum_squares(ctx, gradients);
  check.judge(ctx, double{max_norm});
  scale_gradients(ctx, gradients, std::as_const(check).get());
  return check.read(ctx).norm;
}

}  // namespace ft::inline FTLIB_ABI
