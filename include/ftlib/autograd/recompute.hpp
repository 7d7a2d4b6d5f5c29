// autograd/recompute.hpp: trade time for memory: forget a block's activations, and run the block again in backward.
#pragma once
#include <ftlib/autograd/tape.hpp>

namespace ft::inline FTLIB_ABI {

namespace detail {
/// What a session's context has that changes what a block computes.
struct SessionState {
  Random random;
  std::shared_ptr<void> overlay;
};
/// While it lives a context is in that state; what was there before is put back at the end, and after an error too.
template <Device D> class SessionAsOf {
 public:
  SessionAsOf(Context<D>& ctx, const SessionState& state)
      : ctx_(ctx), before_{std::exchange(ctx.random(), state.random), ctx.exchange_overlay(state.overlay)} {}
  ~SessionAsOf() {
    ctx_.random() = before_.random;
    ctx_.exchange_overlay(std::move(before_.overlay));
  }
  SessionAsOf(const SessionAsOf&) = delete;
  SessionAsOf& operator=(const SessionAsOf&) = delete;

 private:
  Context<D>& ctx_;
  SessionState before_;
};
}  // namespace detail

/// y = f(x), where f: Tensor -> Tensor (of any type) is run a second time in backward instead of keeping what its ops
/// would keep. f must use nothing recorded but its argument (else Error) and must be callable as long as the tape
/// lives. The second run sees the session as the first did: the random stream is wound back, so dropout draws the same
/// numbers, and what hung over the weights (ContextBase::overlay, an adapter in use) hangs there again.  Chen et al.,
/// arXiv:1604.06174
template <Scalar T, Device D, class F> auto recompute(Context<D>& ctx, const Tensor<T, D>& x, F f) -> decltype(f(x)) {
  using Y = typename decltype(f(x))::value_type;
  if (!ctx.tape()) return f(x);
  const detail::SessionState then{ctx.random(), ctx.overlay()};
  Tensor<Y, D> y;
  {
    const NoGrad off(ctx);
    y = f(x.detached());
  }
  // Parameters inside f may be trained even where x itself wants no gradient, so this is recorded in any case.
  Parameter<T, D> always;
  always.trainable = true;
  record(ctx, "recompute", y, {x, always}, [x, f = std::move(f), then](Gradients<Y, D>& g) mutable {
    Context<D>& context = g.context();
    const detail::SessionAsOf as_then(context, then);
    Tape<D> tape(context);
    Tensor<T, D> inner = x.detached();
    tape.watch(inner);
    const Tensor<Y, D> again = f(inner);
    tape.backward(again, g.incoming_tensor());
    if (x.node())
      if (auto dx = tape.gradient(inner)) g.give(TensorId<T>(x), dx);
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
