// train/gradient_exchange.inl.hpp: what train/gradient_exchange.hpp declares.
#pragma once
#include <ftlib/tensor/copy.hpp>  // accumulate, clone, fill
#include <ftlib/train/gradient_exchange.hpp>

#include <algorithm>  // std::clamp, std::copy, std::fill, std::max
#include <bit>        // std::bit_ceil
#include <cstring>    // std::memcpy

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
GradientExchange<T, D>::GradientExchange(Communicator* world, bool exact) : world_(world), exact_(exact) {
  if (world && exact && !std::has_single_bit(static_cast<unsigned>(world->size())))
    throw Error(str("trainer: ", world->size(), " ranks, and their number is no power of two"),
                "start 2, 4, 8 ...: gradients are added in a binary tree, so that any of these gives the same bits; or "
                "let their number decide bits: exact = false, --no-exact.");
}

template <Scalar T, Device D> void GradientExchange<T, D>::share_out(Params params, int64_t group_bytes) {
  constexpr auto item = static_cast<int64_t>(sizeof(accumulate_t<T>));
  params_.assign(params.begin(), params.end());
  std::vector<int64_t> counts;
  int64_t bytes = 0;
  for (const Parameter<T, D>* w : params_) {
    counts.push_back(w->count());
    bytes += w->count() * item;
    places_.emplace(w, places_.size());
  }
  if (group_bytes == 0) group_bytes = std::clamp(bytes / 8, int64_t{1} << 20, int64_t{25} << 20);
  shares_ = Shares(world_, std::move(counts), squares_block<D>, group_bytes / item);
  if (alone()) return;
  for (const auto& [first, last] : shares_.groups()) {
    Group& group = groups_.emplace_back();
    group.members.resize(params_.size());
    std::fill(group.members.begin() + static_cast<std::ptrdiff_t>(first),
              group.members.begin() + static_cast<std::ptrdiff_t>(last), true);
  }
  late_.resize(params_.size());
  counts_.resize(params_.size());
  arrays_ = arrays_of<D>(world_);
  if (!arrays_) arrays_ = (through_host_ = std::make_unique<HostArrays<D>>(*world_)).get();
}

template <Scalar T, Device D> void GradientExchange<T, D>::announce(const char* what) {
  if (!alone()) world_->announce(str("step ", step_, ", ", what));
}

template <Scalar T, Device D> bool GradientExchange<T, D>::any(bool here) {
  announce("whether to stop");
  return world_ ? world_->any(here) : here;
}

template <Scalar T, Device D>
std::pair<std::size_t, std::size_t> GradientExchange<T, D>::share(Context<D>& ctx, std::size_t micro_batches,
                                                                  int64_t step) {
  nodes_.clear();
  step_ = step;
  if (alone()) return {0, micro_batches};
  arrays_->wait(ctx);  // for what a step that has failed has left
  last_loss_ = 0;
  listens_ = nullptr;
  next_ = 0;
  std::fill(late_.begin(), late_.end(), false);
  given_back_.assign(params_.size(), false);
  for (Group& group : groups_) group.left = false;
  announce("gradients");
  const auto ranks = static_cast<std::size_t>(world_->size()), rank = static_cast<std::size_t>(world_->rank());
  const bool again = std::exchange(again_, false);
  gives_back_ = micro_batches <= ranks && !again;
  idle_steps_ += micro_batches < ranks && !again;
  if (!exact_) return {micro_batches * rank / ranks, micro_batches * (rank + 1) / ranks};
  const std::size_t each = std::max(std::bit_ceil(micro_batches), ranks) / ranks;
  return {std::min(micro_batches, rank * each), std::min(micro_batches, (rank + 1) * each)};
}

template <Scalar T, Device D>
GradientListener* GradientExchange<T, D>::listen(Context<D>& ctx, const char* kind, bool last) {
  if (alone()) return nullptr;
  known_ = &of_kind_[kind];
  touched_.clear();
  std::fill(counts_.begin(), counts_.end(), 0);
  if (!last) return this;
  listens_ = &ctx;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const auto [first, end] = shares_.groups()[g];
    groups_[g].missing = static_cast<int64_t>(end - first);
    for (std::size_t i = first; i < end && !known_->empty(); ++i) groups_[g].missing -= (*known_)[i] == 0;
  }
  return this;
}

template <Scalar T, Device D> void GradientExchange<T, D>::touched(const void* parameter) {
  const auto found = places_.find(parameter);
  if (found == places_.end()) return;
  ++counts_[found->second];
  touched_.push_back(found->second);
}

template <Scalar T, Device D> void GradientExchange<T, D>::rule_done() {
  if (listens_)
    for (const std::size_t i : touched_) {
      const auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) { return g.members[i]; });
      if (group->left) late_[i] = true;
      if (!known_->empty() && counts_[i] == (*known_)[i]) --group->missing;
    }
  touched_.clear();
  if (!listens_ || known_->empty()) return;
  while (next_ < groups_.size() && groups_[next_].missing == 0) send(*listens_, groups_[next_++]);
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
void GradientExchange<T, D>::take(Context<D>& ctx, StepCheck<D>& check, const Tensor<A, D>& loss) {
  if (!world_) return check.add_loss(ctx, loss);
  const auto value = static_cast<double>(static_cast<accumulate_t<T>>(loss.item(ctx)));
  if (known_) *known_ = counts_;
  if (listens_) {
    last_loss_ = value;
    return;
  }
  Node leaf{1, value, {}};
  if (!exact_) {
    if (nodes_.empty()) nodes_.push_back(std::move(leaf));
    else nodes_.back().loss += leaf.loss;
    return;
  }
  for (Parameter<T, D>* w : params_) leaf.gradients.push_back(std::exchange(w->grad, {}));
  nodes_.push_back(std::move(leaf));
  while (nodes_.size() > 1 && nodes_[nodes_.size() - 2].leaves == nodes_.back().leaves) merge_last(ctx);
}

// The sum over this rank's micro-batches; the last one's is still where backward has left it. Right to left, as
// merge_last() would add; a + b is b + a to the bit.
template <Scalar T, Device D>
typename GradientExchange<T, D>::Gradient GradientExchange<T, D>::sum_of(Context<D>& ctx, std::size_t i) const {
  Gradient sum = params_[i]->grad;
  bool own = false;
  for (auto node = nodes_.rbegin(); exact_ && node != nodes_.rend(); ++node) {
    const Gradient& left = node->gradients[i];
    if (!left) continue;
    if (!sum) {
      sum = left;
      continue;
    }
    if (!std::exchange(own, true)) sum = clone(ctx, sum);
    accumulate(ctx, sum.view(), left.view());
  }
  return sum;
}

// Where a rank has no gradient it gives -0, which changes no number's bits.
template <Scalar T, Device D> void GradientExchange<T, D>::send(Context<D>& ctx, Group& group) {
  using A = accumulate_t<T>;
  group.left = true;
  std::vector<Gradient> sums(params_.size());
  for (std::size_t i = 0; i < sums.size(); ++i)
    if (group.members[i]) sums[i] = sum_of(ctx, i);
  group.flat = std::static_pointer_cast<A>(
      ctx.allocate(static_cast<std::size_t>(shares_.bounds(group.members).back()) * sizeof(A)));
  auto bounds = shares_.pieces(group.members, [&](std::size_t, std::size_t i, const Share& share, std::size_t place) {
    A* const at = group.flat.get() + place;
    if (sums[i])
      ctx.copy_on_device(at, sums[i].data() + share.begin, static_cast<std::size_t>(share.count()) * sizeof(A));
    else fill(ctx, View<A>(at, {share.count()}), A(-0.0f));
  });
  group.cut = 0;
  for (std::size_t i = 0; gives_back_ && i < sums.size(); ++i)
    if (sums[i]) {
      given_back_[i] = true;
      params_[i]->grad = sums[i] = {};
    }
  arrays_->reduce_scatter(ctx, group.flat, std::move(bounds), exact_);
  constexpr std::size_t on_way = 2;
  const auto g = static_cast<std::size_t>(&group - groups_.data());
  if (!gives_back_ || !through_host_ || g < on_way) return;
  through_host_->wait(ctx, on_way);
  cut(ctx, groups_[g - on_way]);
}

// Of a group that has come, leaves this rank's part.
template <Scalar T, Device D> void GradientExchange<T, D>::cut(Context<D>& ctx, Group& group) {
  using A = accumulate_t<T>;
  const auto bounds = shares_.bounds(group.members);
  const std::size_t begin = bounds[shares_.my_part()], bytes = (bounds[shares_.my_part() + 1] - begin) * sizeof(A);
  const auto mine = std::static_pointer_cast<A>(ctx.allocate(bytes));
  ctx.copy_on_device(mine.get(), group.flat.get() + begin, bytes);
  group.flat = mine;
  group.cut = begin;
}

template <Scalar T, Device D> bool GradientExchange<T, D>::finish(Context<D>& ctx, StepCheck<D>& check) {
  using A = accumulate_t<T>;
  if (!world_) return true;
  const auto count = [&](double loss) { check.add_loss(ctx, Gradient(ctx, Shape{}, {static_cast<A>(loss)})); };
  if (alone()) {
    if (nodes_.empty()) return true;
    while (nodes_.size() > 1) merge_last(ctx);  // leaves that are missing behind the last count as nothing
    for (std::size_t i = 0; exact_ && i < params_.size(); ++i) params_[i]->grad = nodes_.front().gradients[i];
    count(nodes_.front().loss);
    nodes_.clear();
    return true;
  }
  while (next_ < groups_.size()) send(ctx, groups_[next_++]);
  arrays_->wait(ctx);

  // Who has what, what was sent too early, and losses, in one gather.
  double loss = last_loss_;
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) loss = node->loss + loss;
  std::string said(sizeof(double), '\0');
  std::memcpy(said.data(), &loss, sizeof(double));
  for (std::size_t i = 0; i < params_.size(); ++i) {
    bool has = given_back_[i] || params_[i]->grad;
    for (const Node& node : nodes_) has |= exact_ && static_cast<bool>(node.gradients[i]);
    said += late_[i] ? '2' : has ? '1' : '0';
  }
  std::vector<double> losses;
  std::vector<bool> there(params_.size()), late(params_.size());
  for (const std::string& one : world_->gather(said)) {
    std::memcpy(&losses.emplace_back(), one.data(), sizeof(double));
    for (std::size_t i = 0; i < params_.size(); ++i) {
      if (one[sizeof(double) + i] != '0') there[i] = true;
      if (one[sizeof(double) + i] == '2') late[i] = true;
    }
  }
  for (std::size_t step = 1; step < losses.size(); step *= 2)
    for (std::size_t r = 0; r + step < losses.size(); r += 2 * step) losses[r] += losses[r + step];

  again_ = gives_back_ && std::find(late.begin(), late.end(), true) != late.end();
  for (std::size_t g = 0; g < groups_.size() && !again_; ++g)
    for (std::size_t i = shares_.groups()[g].first; i < shares_.groups()[g].second; ++i)
      if (late[i]) {
        send(ctx, groups_[g]);
        break;
      }
  arrays_->wait(ctx);
  for (std::size_t i = 0; i < params_.size() && !again_; ++i) {
    const int64_t mine = shares_.mine(i).count();
    if (there[i] && !params_[i]->grad)
      params_[i]->grad = Gradient(ctx, gives_back_ && !shares_.all_mine(i) ? Shape{mine} : params_[i]->shape());
  }
  for (Group& group : groups_) {
    shares_.pieces(group.members, [&](std::size_t part, std::size_t i, const Share& share, std::size_t place) {
      if (part == shares_.my_part() && there[i] && !again_)
        ctx.copy_on_device(ft::part(params_[i]->grad, share).data(), group.flat.get() + place - group.cut,
                           static_cast<std::size_t>(share.count()) * sizeof(A));
    });
    group.flat = nullptr;
  }
  nodes_.clear();
  listens_ = nullptr;
  if (again_) return false;
  count(losses.front());
  return true;
}

template <Scalar T, Device D> void GradientExchange<T, D>::gather_gradients(Context<D>& ctx) {
  if (alone()) return;
  std::vector<Gradient> all;
  for (std::size_t i = 0; i < params_.size(); ++i) {
    Gradient& gradient = params_[i]->grad;
    if (const Share mine = shares_.mine(i); gradient && gradient.count() == mine.count() && !shares_.all_mine(i)) {
      const Gradient own = std::exchange(gradient, Gradient(ctx, params_[i]->shape()));
      ctx.copy_on_device(gradient.data() + mine.begin, own.data(),
                         static_cast<std::size_t>(mine.count()) * sizeof(accumulate_t<T>));
    }
    all.push_back(gradient);
  }
  gather_shares(ctx, shares_, all);
}

template <Scalar T, Device D>
void GradientExchange<T, D>::measure(Context<D>& ctx, StepCheck<D>& check, float max_norm, float loss_scale) {
  constexpr int64_t block = squares_block<D>;
  if (alone()) return check.measure(ctx, params_, max_norm, loss_scale);
  announce("norm");
  std::vector<View<accumulate_t<T>>> mine;
  std::vector<bool> there;
  std::vector<std::size_t> first(1);  // of each array's blocks
  for (std::size_t i = 0; i < params_.size(); ++i) {
    there.push_back(static_cast<bool>(params_[i]->grad));
    const int64_t blocks = there.back() ? (params_[i]->count() + block - 1) / block : 0;
    first.push_back(first.back() + static_cast<std::size_t>(blocks));
    if (there.back()) mine.push_back(part(params_[i]->grad, shares_.mine(i)).view());
  }
  check.sum_squares(ctx, std::span<const View<accumulate_t<T>>>(mine));
  const auto bounds = shares_.bounds(there, block);
  std::vector<double> by_part(bounds.back()), all(bounds.back());
  const auto own = check.squares().to_host(ctx);
  std::copy(own.begin(), own.end(), by_part.begin() + static_cast<std::ptrdiff_t>(bounds[shares_.my_part()]));
  all_gather(*world_, std::span(by_part), bounds);
  const auto put = [&](std::size_t, std::size_t i, const Share& share, std::size_t place) {
    const auto from = by_part.begin() + static_cast<std::ptrdiff_t>(place);
    std::copy(from, from + (share.count() + block - 1) / block,
              all.begin() + static_cast<std::ptrdiff_t>(first[i]) + share.begin / block);
  };
  shares_.pieces(there, put, block);
  check.squares() = Tensor<double, D>(ctx, {static_cast<int64_t>(all.size())}, all);
  check.judge(ctx, double{max_norm}, double{loss_scale});
}

template <Scalar T, Device D> void GradientExchange<T, D>::gather_weights(Context<D>& ctx) {
  if (alone()) return;
  announce("weights");
  std::vector<Tensor<T, D>> all;
  for (const Parameter<T, D>* w : params_) all.push_back(w->grad ? w->value : Tensor<T, D>());
  gather_shares(ctx, shares_, all);
}

template <Scalar T, Device D> std::vector<double> GradientExchange<T, D>::merged(const std::vector<double>& mine) {
  announce("held-out loss");
  return gather_in_turn(world_, mine);
}

}  // namespace ft::inline FTLIB_ABI
