// train/gradient_exchange.inl.hpp: what train/gradient_exchange.hpp declares.
#pragma once
#include <ftlib/tensor/copy.hpp>  // accumulate
#include <ftlib/train/gradient_exchange.hpp>

#include <algorithm>  // std::max, std::copy, std::fill
#include <bit>        // std::bit_ceil
#include <cstring>    // std::memcpy
#include <sstream>    // std::istringstream

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
GradientExchange<T, D>::GradientExchange(Communicator* world, bool exact) : world_(world), exact_(exact) {
  if (world && exact && !std::has_single_bit(static_cast<unsigned>(world->size())))
    throw Error(str("trainer: ", world->size(), " ranks, and their number is no power of two"),
                "start 2, 4, 8 ...: gradients are added in a binary tree, so that any of these gives the same bits; or "
                "let their number decide bits: exact = false, --no-exact.");
}

template <Scalar T, Device D> void GradientExchange<T, D>::share_out(std::span<Parameter<T, D>* const> params) {
  std::vector<int64_t> counts;
  for (const Parameter<T, D>* w : params) counts.push_back(w->count());
  shares_ = Shares(world_, std::move(counts), squares_block<D>);
}

template <Scalar T, Device D> void GradientExchange<T, D>::announce(const char* what) {
  if (!alone()) world_->announce(str("step ", step_, ", ", what));
}

template <Scalar T, Device D> bool GradientExchange<T, D>::any(bool here) {
  announce("whether to stop");
  return world_ ? world_->any(here) : here;
}

template <Scalar T, Device D>
std::pair<std::size_t, std::size_t> GradientExchange<T, D>::share(std::size_t micro_batches, int64_t step) {
  nodes_.clear();
  step_ = step;
  if (alone()) return {0, micro_batches};
  const auto ranks = static_cast<std::size_t>(world_->size()), rank = static_cast<std::size_t>(world_->rank());
  idle_steps_ += micro_batches < ranks;
  if (!exact_) return {micro_batches * rank / ranks, micro_batches * (rank + 1) / ranks};
  const std::size_t each = std::max(std::bit_ceil(micro_batches), ranks) / ranks;
  return {std::min(micro_batches, rank * each), std::min(micro_batches, (rank + 1) * each)};
}

template <Scalar T, Device D> void GradientExchange<T, D>::merge_last(Context<D>& ctx) {
  const Node right = std::move(nodes_.back());
  nodes_.pop_back();
  Node& left = nodes_.back();
  left.leaves += right.leaves;
  left.loss += right.loss;
  for (std::size_t i = 0; i < left.gradients.size(); ++i)
    if (!left.gradients[i]) left.gradients[i] = right.gradients[i];
    else if (right.gradients[i]) accumulate(ctx, left.gradients[i].view(), std::as_const(right.gradients[i]).view());
}

template <Scalar T, Device D>
template <Scalar A>
void GradientExchange<T, D>::take(Context<D>& ctx, std::span<Parameter<T, D>* const> params, StepCheck<D>& check,
                                  const Tensor<A, D>& loss) {
  if (!world_) return check.add_loss(ctx, loss);
  Node leaf{1, static_cast<double>(static_cast<accumulate_t<T>>(loss.item(ctx))), {}};
  if (!exact_) {
    if (nodes_.empty()) nodes_.push_back(std::move(leaf));
    else nodes_.back().loss += leaf.loss;
    return;
  }
  for (Parameter<T, D>* w : params) leaf.gradients.push_back(std::exchange(w->grad, {}));
  nodes_.push_back(std::move(leaf));
  while (nodes_.size() > 1 && nodes_[nodes_.size() - 2].leaves == nodes_.back().leaves) merge_last(ctx);
}

template <Scalar T, Device D>
void GradientExchange<T, D>::finish(Context<D>& ctx, std::span<Parameter<T, D>* const> params, StepCheck<D>& check) {
  using A = accumulate_t<T>;
  if (!world_) return;
  const auto count = [&](double loss) { check.add_loss(ctx, Gradient(ctx, Shape{}, {static_cast<A>(loss)})); };
  while (nodes_.size() > 1) merge_last(ctx);  // leaves that are missing behind the last count as nothing
  Node mine = nodes_.empty() ? Node{0, 0, std::vector<Gradient>(params.size())} : std::move(nodes_.front());
  nodes_.clear();
  if (!exact_) {
    mine.gradients.clear();
    for (Parameter<T, D>* w : params) mine.gradients.push_back(std::exchange(w->grad, {}));
  }
  if (alone()) {
    for (std::size_t i = 0; i < params.size(); ++i) params[i]->grad = mine.gradients[i];
    return count(mine.loss);
  }

  // Who has what, and losses, in one gather; then one sum over all gradients that any rank has. A rank without one adds
  // -0, which changes no number's bits.
  announce("gradients");
  std::string said(sizeof(double), '\0');
  std::memcpy(said.data(), &mine.loss, sizeof(double));
  for (const Gradient& g : mine.gradients) said += g ? '1' : '0';
  const auto all = world_->gather(said);
  std::vector<double> losses;
  for (const std::string& one : all) {
    losses.push_back(0);
    std::memcpy(&losses.back(), one.data(), sizeof(double));
  }
  for (std::size_t step = 1; step < losses.size(); step *= 2)
    for (std::size_t r = 0; r + step < losses.size(); r += 2 * step) losses[r] += losses[r + step];

  std::vector<bool> there(params.size());
  for (std::size_t i = 0; i < params.size(); ++i)
    for (const std::string& one : all)
      if (one[sizeof(double) + i] == '1') there[i] = true;
  std::vector<A> flat(shares_.bounds(there).back());
  const auto each = [&](auto f) {  // (parameter, its gradient in `flat`)
    A* at = flat.data();
    for (std::size_t i = 0; i < params.size(); ++i) {
      if (!there[i]) continue;
      f(i, at);
      at += params[i]->count();
    }
  };
  each([&](std::size_t i, A* sum) {
    const int64_t n = params[i]->count();
    if (const Gradient& g = mine.gradients[i]) ctx.copy_to_host(sum, g.data(), static_cast<std::size_t>(n) * sizeof(A));
    else std::fill(sum, sum + n, A(-0.0f));
  });
  reduce_scatter(*world_, std::span(flat), shares_.bounds(there));
  each([&](std::size_t i, const A* sum) {
    params[i]->grad = mine.gradients[i] ? mine.gradients[i] : Gradient(ctx, params[i]->shape());
    const Share share = shares_.mine(i);
    ctx.copy_from_host(params[i]->grad.data() + share.begin, sum + share.begin,
                       static_cast<std::size_t>(share.count()) * sizeof(A));
  });
  count(losses.front());
}

template <Scalar T, Device D>
void GradientExchange<T, D>::gather_gradients(Context<D>& ctx, std::span<Parameter<T, D>* const> params) {
  if (alone()) return;
  std::vector<Gradient> all;
  for (const Parameter<T, D>* w : params) all.push_back(w->grad);
  gather_shares(ctx, shares_, all);
}

template <Scalar T, Device D>
void GradientExchange<T, D>::measure(Context<D>& ctx, std::span<Parameter<T, D>* const> params, StepCheck<D>& check,
                                     float max_norm, float loss_scale) {
  if (alone()) return check.measure(ctx, params, max_norm, loss_scale);
  announce("norm");
  std::vector<View<accumulate_t<T>>> mine;
  std::vector<bool> there;
  for (std::size_t i = 0; i < params.size(); ++i) {
    there.push_back(static_cast<bool>(params[i]->grad));
    if (there.back()) mine.push_back(part(params[i]->grad, shares_.mine(i)).view());
  }
  check.sum_squares(ctx, std::span<const View<accumulate_t<T>>>(mine));
  const auto bounds = shares_.bounds(there, squares_block<D>);
  std::vector<double> all(bounds.back());
  const auto own = check.squares().to_host(ctx);
  std::copy(own.begin(), own.end(),
            all.begin() + static_cast<std::ptrdiff_t>(bounds[part_of(shares_.rank(), shares_.ranks())]));
  all_gather(*world_, std::span(all), bounds);
  check.squares() = Tensor<double, D>(ctx, {static_cast<int64_t>(all.size())}, all);
  check.judge(ctx, double{max_norm}, double{loss_scale});
}

template <Scalar T, Device D>
void GradientExchange<T, D>::gather_weights(Context<D>& ctx, std::span<Parameter<T, D>* const> params) {
  if (alone()) return;
  announce("weights");
  std::vector<Tensor<T, D>> all;
  for (const Parameter<T, D>* w : params) all.push_back(w->grad ? w->value : Tensor<T, D>());
  gather_shares(ctx, shares_, all);
}

template <Scalar T, Device D> std::vector<double> GradientExchange<T, D>::merged(const std::vector<double>& mine) {
  announce("held-out loss");
  return gather_in_turn(world_, mine);
}

}  // namespace ft::inline FTLIB_ABI
