// ops/sampling.cpu.hpp: choosing the next token of each row of logits on the CPU.
#pragma once
#include <ftlib/ops/sampling.shared.hpp>  // SamplingRule
#include <ftlib/tensor/context.cpu.hpp>   // Context<Cpu>
#include <ftlib/tensor/view.hpp>          // View

#include <algorithm>  // std::nth_element, std::pop_heap
#include <span>       // std::span
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

inline int32_t sample_row(std::span<float> logits, const SamplingRule& rule, double uniform,
                          std::span<const int32_t> history) {
  for (const int32_t id : history) {
    float& logit = logits[static_cast<std::size_t>(id)];
    logit = logit > 0 ? logit / rule.repetition_penalty : logit * rule.repetition_penalty;
  }
  const auto V = static_cast<int32_t>(logits.size());
  uint64_t best = 0;
  for (int32_t i = 0; i < V; ++i) best = std::max(best, likelihood_rank(logits[static_cast<std::size_t>(i)], i, V));
  const int32_t likeliest = id_of_rank(best, V);
  const float largest = logits[static_cast<std::size_t>(likeliest)];
  if (rule.greedy || !std::isfinite(largest)) return likeliest;

  struct Candidate {
    uint64_t rank, weight;
    int32_t id;
  };
  std::vector<Candidate> candidates;
  const uint64_t lowest = likelihood_rank(largest - rule.reach, V - 1, V);
  for (int32_t i = 0; i < V; ++i)
    if (const uint64_t rank = likelihood_rank(logits[static_cast<std::size_t>(i)], i, V); rank >= lowest)
      candidates.push_back({rank, 0, i});
  const bool cut_k = rule.top_k > 0 && rule.top_k < candidates.size(), cut_p = rule.top_p < 1;
  if (cut_k) {
    const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(rule.top_k);
    std::nth_element(candidates.begin(), end, candidates.end(),
                     [](const Candidate& a, const Candidate& b) { return a.rank > b.rank; });
    candidates.erase(end, candidates.end());
  }
  uint64_t total = 0;
  for (Candidate& c : candidates) {
    c.weight = sampling_weight((largest - logits[static_cast<std::size_t>(c.id)]) * rule.scale);
    total += c.weight;
  }
  if (cut_p) {  // a heap, because few are kept of many
    const auto less = [](const Candidate& a, const Candidate& b) { return a.rank < b.rank; };
    std::make_heap(candidates.begin(), candidates.end(), less);
    const uint64_t target = top_p_target(rule.top_p, total);
    auto first = candidates.end();
    for (total = 0; total < target; total += first->weight) std::pop_heap(candidates.begin(), first--, less);
    candidates.erase(candidates.begin(), first);
  }
  if (cut_k || cut_p)
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  const uint64_t at = draw_position(uniform, total);
  uint64_t sum = 0;
  for (const Candidate& c : candidates)
    if ((sum += c.weight) > at) return c.id;
  return likeliest;  // not reached: the sum of all is above `at`
}

}  // namespace detail

/// tokens[n] = the next token by row n of logits; see sample_tokens in ops/sampling.hpp.
template <Scalar T>
void choose_tokens(Context<Cpu>& ctx,
                   View<int32_t> tokens,                  // (n)     assigned
                   View<T> logits,                        // (n, V)  those of `history` are changed
                   const detail::SamplingRule& rule,      //
                   const std::vector<double>& uniform,    // (n)     empty where rule.greedy
                   const std::vector<int32_t>& history,   // distinct ids of row n: [starts[n], starts[n + 1])
                   const std::vector<int64_t>& starts) {  // (n + 1)  empty: no history
  const int64_t V = logits.cols();
  parallel_for(ctx.pool(), logits.rows(), 1 + 4096 / V, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const auto row = static_cast<std::size_t>(n);
      std::span<const int32_t> before;
      if (!starts.empty())
        before = std::span(history).subspan(static_cast<std::size_t>(starts[row]),
                                            static_cast<std::size_t>(starts[row + 1] - starts[row]));
      tokens.data[n] = detail::sample_row(std::span(logits.row(n), static_cast<std::size_t>(V)), rule,
                                          uniform.empty() ? 0 : uniform[row], before);
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
