// text/calibrate.inl.hpp: the bodies of text/calibrate.hpp.
#pragma once
#include <ftlib/nn/adapter.hpp>  // Adapter, Overlay
#include <ftlib/text/calibrate.hpp>
#include <ftlib/text/evaluate.hpp>  // perplexity
#if FTLIB_HEADER_ONLY
#include <ftlib/nn/adapter.inl.hpp>      // grouped_project
#include <ftlib/text/causal_lm.inl.hpp>  // CausalLM
#include <ftlib/text/evaluate.inl.hpp>
#endif

#include <memory>   // std::make_shared
#include <utility>  // std::pair

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Hangs over a model's matrices and looks at what comes by; the products are those of what hung there before.
template <Scalar T, Device D> class ChannelWatch final : public Adapter<T, D> {
 public:
  struct Sums {
    Tensor<accumulate_t<T>, D> squares;
    int64_t rows = 0;
  };
  ChannelWatch(std::shared_ptr<void> below, const std::vector<Parameter<T, D>*>& weights) : below_(std::move(below)) {
    for (const Parameter<T, D>* w : weights)
      if (w->part_of) stacks_[{w->part_of->stack, w->part_of->first}].push_back(w);
  }

  Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias,
                      float) override {
    see(ctx, w, squared(ctx, x).view());
    const OverlayScope<D> below(ctx, below_);
    return project(ctx, x, w, bias);
  }
  Tensor<T, D> grouped_addition(Context<D>& ctx, const Tensor<T, D>& x, const Parameter<T, D>& w,
                                const std::vector<int64_t>& starts) override {
    const Tensor<T, D> squares = squared(ctx, x);
    const auto& stack = stacks_.at({w.part_of->stack, w.part_of->first});
    for (std::size_t g = 0; g + 1 < starts.size(); ++g)
      if (starts[g] < starts[g + 1]) see(ctx, *stack[g], part(squares.view(), 0, starts[g], starts[g + 1]));
    Tensor<T, D> y = Tensor<T, D>::zeros(ctx, {x.rows(), w.shape()[0]});
    const auto* overlay = static_cast<const Overlay<T, D>*>(below_.get());
    if (const auto* slot = overlay ? overlay->find(w) : nullptr)
      for (const auto& [adapter, strength] : slot->uses)
        y = add_scaled(ctx, y, adapter->grouped_addition(ctx, x, w, starts), strength);
    return y;
  }
  Tensor<T, D> addition(Context<D>&, const Tensor<T, D>&, Parameter<T, D>& w) override { throw alone(w); }
  Tensor<T, D> merged(Context<D>&, const Parameter<T, D>& w) override { throw alone(w); }
  void visit(const std::function<void(Parameter<T, D>&)>&) override {}
  std::shared_ptr<Adapter<T, D>> copy(Context<D>&, const Parameter<T, D>& w, float) override { throw alone(w); }

  const std::map<const Parameter<T, D>*, Sums>& sums() const { return sums_; }

 private:
  static Error alone(const Parameter<T, D>& w) { return Error(str("calibrate: '", w.name, "' is only watched")); }
  static Tensor<T, D> squared(Context<D>& ctx, const Tensor<T, D>& x) {
    const Tensor<T, D> rows = contiguous(ctx, x).reshaped({x.rows(), x.cols()});
    return mul(ctx, rows, rows);
  }
  void see(Context<D>& ctx, const Parameter<T, D>& w, View<const T> squares) {
    Sums& sums = sums_[&w];
    if (!sums.squares) sums.squares = Tensor<accumulate_t<T>, D>::zeros(ctx, {squares.cols()});
    add_column_sums(ctx, sums.squares.view(), squares);
    sums.rows += squares.rows();
  }

  std::shared_ptr<void> below_;
  std::map<std::pair<std::string, int64_t>, std::vector<const Parameter<T, D>*>> stacks_;
  std::map<const Parameter<T, D>*, Sums> sums_;
};

}  // namespace detail

template <Scalar T, Device D>
[[gnu::cold]] Importance calibrate(CausalLM<T, D>& lm, std::string_view text, int64_t window) {
  Context<D>& ctx = lm.context();
  const auto& weights = lm.adapters().base();
  const std::shared_ptr<void> before = ctx.overlay();
  const auto* in_use = Overlay<T, D>::of(ctx);
  const auto watch = std::make_shared<detail::ChannelWatch<T, D>>(before, weights);
  const auto watching = std::make_shared<Overlay<T, D>>();
  watching->slots.resize(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    auto& slot = watching->slots[i];
    if (const auto* own = in_use ? in_use->find(*weights[i]) : nullptr; own && own->replacement) slot = *own;
    else if (weights[i]->shape().rank() == 2) slot = {weights[i], {{watch.get(), 1}}, nullptr};
  }
  Importance found;
  {
    const OverlayScope<D> scope(ctx, watching);
    found.perplexity = perplexity(lm, text, window);
  }
  for (const auto& [w, sums] : watch->sums()) {
    auto& squares = found.squares[w->name];
    for (const auto sum : sums.squares.to_host(ctx))
      squares.push_back(static_cast<float>(sum / static_cast<accumulate_t<T>>(sums.rows)));
  }
  return found;
}

}  // namespace ft::inline FTLIB_ABI
