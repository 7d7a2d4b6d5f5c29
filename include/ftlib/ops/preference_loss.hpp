// ops/preference_loss.hpp: which of two answers is preferred, as a loss of their log-probabilities and those of a
// reference. Made of other ops.
#pragma once
#include <ftlib/ops/cross_entropy.hpp>  // cross_entropy
#include <ftlib/ops/elementwise.hpp>    // sub, scale, mul, sum, add_scaled
#include <ftlib/ops/shape.hpp>          // reshape

#include <algorithm>  // std::max
#include <cmath>      // std::isfinite
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// How preferences are learned.
struct PreferenceOptions {
  float beta = 0.1f;          // how strongly a model is held to its reference: rewards are beta log(p / p of that)
  float label_smoothing = 0;  // the share of pairs that may be the wrong way round, below 0.5   cDPO: Mitchell, 2023
  float nll =
      0;  // weight of the chosen answer's -log p, a token's mean, beside it   RPO: Pang et al., arXiv:2404.19733

  /// Throws Error for what is out of range.
  void check() const {
    if (!(beta > 0) || !std::isfinite(beta) || !(label_smoothing >= 0 && label_smoothing < 0.5f) || !(nll >= 0) ||
        !std::isfinite(nll))
      throw Error(str("preferences: beta ", beta, ", label smoothing ", label_smoothing, ", weight of nll ", nll),
                  "beta is above 0 (0.1 is usual), label smoothing in [0, 0.5), a weight 0 or more.");
  }
};

/// The sum over pairs of -log sigmoid(d), d = r_chosen - r_rejected, with the rewards r = beta (log p - log p of the
/// reference); with label smoothing s it is (1 - s) (-log sigmoid(d)) + s (-log sigmoid(-d)). `nll` and `reference` are
/// -log p of the answers, pair i's chosen one at 2 i, its rejected one at 2 i + 1: (2 P), (2 P) -> (). The reference
/// gets no gradient. `targets` (2 P) are the answers' numbers of tokens, for PreferenceOptions::nll. Throws Error for
/// shapes that are no pairs, and for options out of range.   DPO: Rafailov et al., arXiv:2305.18290
template <Scalar T, Device D>
Tensor<T, D> preference_loss(Context<D>& ctx, const Tensor<T, D>& nll, const Tensor<T, D>& reference,
                             const std::vector<int64_t>& targets, const PreferenceOptions& options = {}) {
  options.check();
  const int64_t P = nll.count() / 2;
  if (nll.rank() != 1 || nll.count() != 2 * P || nll.shape() != reference.shape() ||
      static_cast<int64_t>(targets.size()) != 2 * P)
    throw Error(str("preference_loss: nll ", nll.shape(), ", the reference's ", reference.shape(), ", and ",
                    targets.size(), " numbers of targets"),
                "they are (2 pairs) each.");
  // -log sigmoid(a - b) is the cross-entropy of the logits (a, b) to the first of them: which answer is preferred is
  // one class of two, and the rewards are its logits.
  const Tensor<T, D> rewards = reshape(ctx, scale(ctx, sub(ctx, nll, reference.detached()), -options.beta), {P, 2});
  const auto prefers = [&](int32_t side) {
    return cross_entropy(ctx, rewards, std::vector<int32_t>(static_cast<std::size_t>(P), side));
  };
  Tensor<T, D> loss = prefers(0);
  if (const float s = options.label_smoothing; s > 0) loss = add_scaled(ctx, scale(ctx, loss, 1 - s), prefers(1), s);
  if (options.nll > 0) {
    std::vector<T> weights(targets.size());  // 1 / targets of the chosen ones
    for (std::size_t i = 0; i < targets.size(); i += 2)
      weights[i] = static_cast<T>(1 / static_cast<double>(std::max<int64_t>(1, targets[i])));
    loss = add_scaled(ctx, loss, sum(ctx, mul(ctx, nll, Tensor<T, D>(ctx, nll.shape(), weights))), options.nll);
  }
  return loss;
}

}  // namespace ft::inline FTLIB_ABI
