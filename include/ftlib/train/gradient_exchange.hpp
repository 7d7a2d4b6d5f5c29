// train/gradient_exchange.hpp: the ranks that share a step: which micro-batches each has, and their gradients' sum.
#pragma once
#include <ftlib/autograd/tape.hpp>               // GradientListener
#include <ftlib/distributed/array_exchange.hpp>  // ArrayExchange
#include <ftlib/optim/clip.hpp>                  // StepCheck
#include <ftlib/optim/share.hpp>                 // Shares

#include <cstdint>        // std::int64_t
#include <map>            // std::map
#include <memory>         // std::unique_ptr
#include <span>           // std::span
#include <string>         // std::string
#include <unordered_map>  // std::unordered_map
#include <utility>        // std::pair
#include <vector>         // std::vector

namespace ft::inline FTLIB_ABI {

/// Adds up what micro-batches give, within a rank and over ranks. With a communicator, each micro-batch's gradients are
/// a leaf of one binary tree, ((0+1)+(2+3))+..., of which a rank has a branch: any number of ranks, a power of two,
/// ends with the same bits, at the price of log2(micro-batches) more gradients in memory. A rank gets the sum of its
/// share of parameters alone (distributed/shares.hpp), which it updates, and then gives the weights to the others.
/// Without a communicator, gradients are added where they are, and all calls are free.
///
/// Groups of parameters leave for the other ranks, in a thread of their own or by an engine of the device's, while the
/// backward pass of a rank's last micro-batch goes on: one after the other, each when it has heard of all of its
/// gradients' parts, whose number earlier micro-batches of the kind have told. Where there come more after all, the
/// group is sent again.
///
/// In a step that has no more micro-batches than ranks a gradient's memory is given back as its group leaves: a rank
/// holds those of the groups that are not complete, of two on their way, and its share of the others (ZeRO-2:
/// Rajbhandari et al., arXiv:1910.02054, section 5.2). Where there come more parts after all, the step's micro-batches
/// are computed again.
template <Scalar T, Device D> class GradientExchange final : GradientListener {
 public:
  using Gradient = Tensor<accumulate_t<T>, D>;
  using Params = std::span<Parameter<T, D>* const>;

  /// `world` may be null. Not `exact`: a rank adds gradients where they are, and ranks' sums are added as
  /// reduce_scatter does, so that another number of ranks ends with other bits. Throws Error for `exact` where ranks
  /// are no power of two.
  explicit GradientExchange(Communicator* world, bool exact = true);
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  /// Before all calls below, which are for these parameters: which elements are whose, in groups of about `group_bytes`
  /// of gradients; 0: an eighth of all, within 1 and 25 MiB.
  void share_out(Params params, int64_t group_bytes = 0);
  const Shares& shares() const { return shares_; }

  bool alone() const { return !world_ || world_->size() == 1; }
  /// Rank 0 alone writes files.
  bool writes() const { return !world_ || world_->rank() == 0; }
  /// Whether it is so on any rank.
  bool any(bool here);

  /// The micro-batches that are this rank's: [first, last); none where there are fewer than ranks, for the last of
  /// these. `step` is for messages, as of all calls until the next one.
  std::pair<std::size_t, std::size_t> share(Context<D>& ctx, std::size_t micro_batches, int64_t step);
  /// Before a micro-batch: who hears of its backward pass; null: nobody. `kind`: MicroBatch::kind; `last` of this
  /// rank's in a step: what is final leaves.
  GradientListener* listen(Context<D>& ctx, const char* kind, bool last);
  /// Takes what a micro-batch has left in gradients, and its loss; without ranks that is counted in `check` at once.
  template <Scalar A> void take(Context<D>& ctx, StepCheck<D>& check, const Tensor<A, D>& loss);
  /// Puts the sums over all micro-batches into gradients, in a rank's share of them, and that of losses into `check`.
  /// Gradients that were given back are as long as the share. False, on all ranks: the step is to be computed again,
  /// from share() on.
  [[nodiscard]] bool finish(Context<D>& ctx, StepCheck<D>& check);
  /// All gradients on every rank: for who wants to look.
  void gather_gradients(Context<D>& ctx);
  /// The verdict on all of the gradients, the same on all ranks; see StepCheck::measure.
  void measure(Context<D>& ctx, StepCheck<D>& check, float max_norm, float loss_scale);
  /// After an update of one's share: all of those weights that have a gradient, on every rank.
  void gather_weights(Context<D>& ctx);

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
  struct Group {
    std::vector<bool> members;              // of all parameters
    std::shared_ptr<accumulate_t<T>> flat;  // as it is exchanged; once cut, this rank's part of it
    std::size_t cut = 0;                    // where in it what is left begins
    int64_t missing = 0;                    // parameters that are not final
    bool left = false;
  };
  void touched(const void* parameter) override;
  void rule_done() override;
  void merge_last(Context<D>& ctx);
  Gradient sum_of(Context<D>& ctx, std::size_t i) const;
  void send(Context<D>& ctx, Group& group);
  void cut(Context<D>& ctx, Group& group);
  void announce(const char* what);

  Communicator* world_;
  bool exact_;
  std::vector<Parameter<T, D>*> params_;
  Shares shares_;
  int64_t step_ = 0, idle_steps_ = 0;
  std::vector<Node> nodes_;  // branches that are whole, the largest first; not exact: one, without gradients
  double last_loss_ = 0;     // of the last micro-batch, whose gradients are still where backward left them

  Context<D>* listens_ = nullptr;  // in the last micro-batch
  std::vector<Group> groups_;
  std::size_t next_ = 0;                                 // the group that leaves next
  std::unordered_map<const void*, std::size_t> places_;  // of parameters
  std::map<std::string, std::vector<int32_t>> of_kind_;  // how often a micro-batch of that kind touches each
  std::vector<int32_t>* known_ = nullptr;                // of this micro-batch's kind
  std::vector<int32_t> counts_;                          // in this micro-batch
  std::vector<std::size_t> touched_;                     // by this rule
  std::vector<bool> late_;                               // touched after its group had left
  bool gives_back_ = false, again_ = false;              // in this step; in the next try of it, not
  std::vector<bool> given_back_;                         // gradients
  std::unique_ptr<HostArrays<D>> through_host_;          // where the engine does not reach the device's memory
  ArrayExchange<D>* arrays_ = nullptr;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/gradient_exchange.inl.hpp>
#endif
