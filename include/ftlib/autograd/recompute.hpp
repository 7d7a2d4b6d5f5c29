// autograd/recompute.hpp: trade time for memory: forget a block's activations, and run the block again in backward.
#pragma once
#include <ftlib/autograd/tape.hpp>

#include <vector>  // std::vector

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

/// ys = f(xs), where f: vector of Tensor -> vector of Tensor (of any type) is run a second time in backward instead of
/// keeping what its ops would keep. f must use nothing recorded but its argument (else Error) and must be callable as
/// long as the tape lives. The second run sees the session as the first did: the random stream is wound back, so
/// dropout draws the same numbers, and what hung over the weights (ContextBase::overlay, an adapter in use) hangs there
/// again. Chen et al., arXiv:1604.06174
template <Scalar T, Device D, class F>
auto recompute(Context<D>& ctx, const std::vector<Tensor<T, D>>& xs, F f) -> decltype(f(xs)) {
  using Y = typename decltype(f(xs))::value_type::value_type;
  if (!ctx.tape()) return f(xs);
  const detail::SessionState then{ctx.random(), ctx.overlay()};
  std::vector<Tensor<T, D>> bare;
  for (const Tensor<T, D>& x : xs) {
    ctx.tape()->wants("recompute", {x});
    bare.push_back(x.detached());
  }
  std::vector<Tensor<Y, D>> ys;
  {
    const NoGrad off(ctx);
    ys = f(bare);
  }
  std::vector<Tensor<Y, D>*> results;
  for (Tensor<Y, D>& y : ys) results.push_back(&y);
  // Parameters inside f may be trained even where no x wants a gradient, so this is recorded in any case.
  ctx.tape()->push(results, [xs, f = std::move(f), then](Gradients<Y, D>& g) mutable {
    Context<D>& context = g.context();
    const detail::SessionAsOf as_then(context, then);
    Tape<D> tape(context, g.listener());
    std::vector<Tensor<T, D>> inner;
    for (const Tensor<T, D>& x : xs) {
      inner.push_back(x.detached());
      tape.watch(inner.back());
    }
    const std::vector<Tensor<Y, D>> again = f(inner);
    std::vector<Tensor<Y, D>> dys(again.size());
    for (std::size_t i = 0; i < again.size(); ++i)
      if (const int n = static_cast<int>(i); g.came(n)) dys[i] = g.incoming_tensor(n);
    tape.backward(again, dys);
    for (std::size_t i = 0; i < xs.size(); ++i)
      if (xs[i].node())
        if (auto dx = tape.gradient(inner[i])) g.give(TensorId<T>(xs[i]), dx);
  });
  return ys;
}
/// The same of one: y = f(x), f: Tensor -> Tensor.
template <Scalar T, Device D, class F> auto recompute(Context<D>& ctx, const Tensor<T, D>& x, F f) -> decltype(f(x)) {
  return recompute(ctx, std::vector<Tensor<T, D>>{x},
                   [f = std::move(f)](const std::vector<Tensor<T, D>>& xs) mutable {
                     return std::vector<decltype(f(xs[0]))>{f(xs[0])};
                   })
      .front();
}

}  // namespace ft::inline FTLIB_ABI
