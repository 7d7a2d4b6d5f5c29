// train/gradient_exchange.hpp: the ranks that share a step: which micro-batches each has, and their gradients' sum.
#pragma once
#include <ftlib/autograd/parameter.hpp>        // Parameter
#include <ftlib/distributed/communicator.hpp>  // Communicator
#include <ftlib/optim/clip.hpp>                // StepCheck
#include <ftlib/optim/share.hpp>               // Shares

#include <cstdint>  // std::int64_t
#include <span>     // std::span
#include <utility>  // std::pair
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {

/// Adds up what micro-batches give, within a rank and over ranks. With a communicator, each micro-batch's gradients are
/// a leaf of one binary tree, ((0+1)+(2+3))+..., of which a rank has a branch: any number of ranks, a power of two,
/// ends with the same bits, at the price of log2(micro-batches) more gradients in memory. A rank gets the sum of its
/// share of parameters alone (distributed/shares.hpp), which it updates, and then gives the weights to the others.
/// Without a communicator, gradients are added where they are, and all calls are free.
template <Scalar T, Device D> class GradientExchange {
 public:
  using Gradient = Tensor<accumulate_t<T>, D>;

  /// `world` may be null. Not `exact`: a rank adds gradients where they are, and ranks' sums are added as
  /// reduce_scatter does, so that another number of ranks ends with other bits. Throws Error for `exact` where ranks
  /// are no power of two.
  explicit GradientExchange(Communicator* world, bool exact = true);

  /// Before the calls below: which elements of which parameters are whose.
  void share_out(std::span<Parameter<T, D>* const> params);
  const Shares& shares() const { return shares_; }

  bool alone() const { return !world_ || world_->size() == 1; }
  /// Rank 0 alone writes files.
  bool writes() const { return !world_ || world_->rank() == 0; }
  /// Whether it is so on any rank.
  bool any(bool here);
  /// The micro-batches that are this rank's: [first, last); none where there are fewer than ranks, for the last of
  /// these. `step` is for messages, as of all calls until the next one.
  std::pair<std::size_t, std::size_t> share(std::size_t micro_batches, int64_t step);
  /// Takes what a micro-batch has left in gradients, and its loss; without ranks that is counted in `check` at once.
  template <Scalar A>
  void take(Context<D>& ctx, std::span<Parameter<T, D>* const> params, StepCheck<D>& check, const Tensor<A, D>& loss);
  /// Puts the sums over all micro-batches into gradients, in a rank's share of them, and that of losses into `check`.
  void finish(Context<D>& ctx, std::span<Parameter<T, D>* const> params, StepCheck<D>& check);
  /// All of these gradients on every rank: for who wants to look.
  void gather_gradients(Context<D>& ctx, std::span<Parameter<T, D>* const> params);
  /// The verdict on all of the gradients, the same on all ranks; see StepCheck::measure.
  void measure(Context<D>& ctx, std::span<Parameter<T, D>* const> params, StepCheck<D>& check, float max_norm,
               float loss_scale);
  /// After an update of one's share: all of those weights that have a gradient, on every rank.
  void gather_weights(Context<D>& ctx, std::span<Parameter<T, D>* const> params);

  /// Whether a micro-batch of an evaluation is this rank's, counted over all batches: each rank has one in turn.
  bool reads(int64_t micro_batch) const { return is_turn(world_, micro_batch); }
  /// Of an evaluation, what the ranks have found, in the order in which one alone would have.
  std::vector<double> merged(const std::vector<double>& mine);
  /// Steps so far that had fewer micro-batches than ranks.
  int64_t idle_steps() const { return idle_steps_; }

 private:
  struct Node {
    int64_t leaves;
    double loss;
    std::vector<Gradient> gradients;  // of each parameter; empty where it has none
  };
  void merge_last(Context<D>& ctx);
  void announce(const char* what);

  Communicator* world_;
  bool exact_;
  Shares shares_;
  int64_t step_ = 0, idle_steps_ = 0;
  std::vector<Node> nodes_;  // branches that are whole, the largest first; not exact: one, without gradients
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/gradient_exchange.inl.hpp>
#endif
