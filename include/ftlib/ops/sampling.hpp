// ops/sampling.hpp: choosing the next token of each row of logits: contract and checks.
#pragma once
#include <ftlib/autograd/tape.hpp>        // no_backward
#include <ftlib/ops/sampling.shared.hpp>  // Sampling, SamplingRule
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/sampling.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/sampling.cuda.cuh>
#endif

#include <algorithm>  // std::sort, std::unique
#include <span>       // std::span
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// The next token of each row, from its logits: (n, V) -> (n), each in [0, V). `uniform` holds a number in [0, 1) for
/// each row (none are needed at temperature 0) and `history` the tokens that each row's text holds, in any order (none
/// are needed at repetition_penalty 1; otherwise logits are changed in place).
///
/// In this order: logits above 0 of tokens in the history are divided by the penalty and others multiplied; weights are
/// exp((logit - largest) / temperature); min_p; top_k; top_p, a share of what is left; then the draw, which is the
/// first token, in the order of ids, at which the sum of weights exceeds its share `uniform` of their total. Weights
/// are rounded down to multiples of 2^-40 of the largest, after which all sums are exact: a row gives the same token on
/// the CPU and on the GPU, in any batch. The lower id wins ties; NaN counts as -infinity; where the largest logit is
/// infinite, the result is the lowest id that has it.
///
/// Throws Error where shapes or numbers do not fit, an id is outside [0, V), or V is 0 or above 2^23. Has no backward.
template <Device D>
Tensor<int32_t, D> sample_tokens(Context<D>& ctx, const Tensor<float, D>& logits_, const Sampling& options,
                                 const std::vector<double>& uniform,
                                 const std::vector<std::span<const int32_t>>& history = {}) {
  options.check();
  no_backward(ctx, "sample_tokens", {logits_});
  if (logits_.rank() != 2 || logits_.size(1) < 1 || logits_.size(1) > detail::most_tokens)
    throw Error(str("sample_tokens: logits ", logits_.shape(), " are not rows of 1 to ", detail::most_tokens));
  Tensor<float, D> logits = contiguous(ctx, logits_);
  const int64_t n = logits.size(0), V = logits.size(1);
  const detail::SamplingRule rule(options);
  if (!rule.greedy) {
    if (static_cast<int64_t>(uniform.size()) != n)
      throw Error(str("sample_tokens: ", uniform.size(), " random numbers do not fit logits ", logits.shape()));
    for (const double u : uniform)
      if (!(u >= 0 && u < 1)) throw Error(str("sample_tokens: the random number ", u, " is outside [0, 1)"));
  }
  std::vector<int32_t> ids;  // each once in its row
  std::vector<int64_t> starts;
  if (options.repetition_penalty != 1) {
    if (static_cast<int64_t>(history.size()) != n)
      throw Error(str("sample_tokens: ", history.size(), " histories do not fit logits ", logits.shape()));
    starts.push_back(0);
    for (const std::span<const int32_t> tokens : history) {
      for (const int32_t id : tokens)
        if (id < 0 || id >= V)
          throw Error(str("sample_tokens: token ", id, " of a history is outside the vocabulary of ", V));
      const auto first = ids.insert(ids.end(), tokens.begin(), tokens.end());
      std::sort(first, ids.end());
      ids.erase(std::unique(first, ids.end()), ids.end());
      starts.push_back(static_cast<int64_t>(ids.size()));
    }
  }
  Tensor<int32_t, D> tokens(ctx, {n});
  choose_tokens(ctx, tokens.view(), logits.view(), rule, uniform, ids, starts);
  return tokens;
}

}  // namespace ft::inline FTLIB_ABI
