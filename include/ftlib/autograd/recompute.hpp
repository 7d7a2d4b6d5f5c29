// autograd/recompute.hpp: trade time for memory: forget a block's activations, and run the block again in backward.
#pragma once
#include <ftlib/autograd/tape.hpp>

namespace ft::inline FTLIB_ABI {

/// y = f(x), where f: Tensor -> Tensor is run a second time in backward instead of keeping what its ops would keep.
/// f must use nothing recorded but its argument (else Error) and must be callable as long as the tape lives; the random
/// stream is wound back for the second run, so dropout draws the same numbers.  Chen et al., arXiv:1604.06174
template <Scalar T, Device D, class F> Tensor<T, D> recompute(Context<D>& ctx, const Tensor<T, D>& x, F f) {
  if (!ctx.tape()) return f(x);
  const uint64_t position = ctx.random().position();
  Tensor<T, D> y;
  {
    const NoGrad off(ctx);
    y = f(x.detached());
  }
  // Parameters inside f may be trained even where x itself wants no gradient, so this is recorded in any case.
  Parameter<T, D> always;
  always.trainable = true;
  record(ctx, "recompute", y, {x, always}, [x, f = std::move(f), position](Gradients<T, D>& g) mutable {
    Context<D>& context = g.context();
    const uint64_t now = context.random().position();
    context.random().seek(position);
    Tape<D> tape(context);
    Tensor<T, D> inner = x.detached();
    tape.watch(inner);
    const Tensor<T, D> again = f(inner);
    tape.backward(again, g.incoming_tensor());
    context.random().seek(now);
    if (x.node())
      if (auto dx = tape.gradient(inner)) g.give(TensorId<T>(x), dx);
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
