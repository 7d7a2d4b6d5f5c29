// text/sampling.hpp: choosing the next token from a row of logits.
#pragma once
#include <ftlib/core/error.hpp>   // Error
#include <ftlib/core/random.hpp>  // Random

#include <algorithm>      // std::max_element, std::partial_sort
#include <cmath>          // std::exp
#include <cstdint>        // std::int32_t
#include <span>           // std::span
#include <unordered_set>  // std::unordered_set
#include <vector>         // std::vector

namespace ft::inline FTLIB_ABI {

/// How the next token is chosen; the defaults are greedy. The cuts apply in the order of the fields.
struct Sampling {
  float repetition_penalty = 1;  // of tokens that the text holds already, the prompt's too: arXiv:1909.05858; 1: none
  float temperature = 0;         // logits are divided by it; 0: always the likeliest
  int32_t top_k = 0;             // only the k likeliest; 0: all
  float top_p = 1;  // only the likeliest that together have this share of the probability: arXiv:1904.09751
  float min_p = 0;  // only those with this share of the likeliest's probability: arXiv:2407.01082

  void check() const {
    if (!(repetition_penalty > 0))
      throw Error(str("sampling: repetition_penalty ", repetition_penalty, " must be above 0"));
    if (!(temperature >= 0)) throw Error(str("sampling: temperature ", temperature, " must be 0 or above"));
    if (top_k < 0) throw Error(str("sampling: top_k ", top_k, " must be 0 or above"));
    if (!(top_p > 0 && top_p <= 1)) throw Error(str("sampling: top_p ", top_p, " is outside (0, 1]"));
    if (!(min_p >= 0 && min_p <= 1)) throw Error(str("sampling: min_p ", min_p, " is outside [0, 1]"));
  }
};

/// The next token after `history`, from its logits, which are changed. The lower id wins a tie.
inline int32_t sample(std::span<float> logits, const Sampling& options, std::span<const int32_t> history,
                      Random& random) {
  if (options.repetition_penalty != 1)
    for (const int32_t id : std::unordered_set<int32_t>(history.begin(), history.end())) {
      float& logit = logits[static_cast<std::size_t>(id)];
      logit = logit > 0 ? logit / options.repetition_penalty : logit * options.repetition_penalty;
    }
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options.temperature == 0) return static_cast<int32_t>(best - logits.begin());

  struct Candidate {
    int32_t id;
    double weight;  // relative to the likeliest
  };
  std::vector<Candidate> candidates;
  const float most = *best;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((double{logits[i]} - double{most}) / double{options.temperature});
    if (weight >= double{options.min_p} && weight > 0) candidates.push_back({static_cast<int32_t>(i), weight});
  }
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  if (options.top_k > 0 && static_cast<std::size_t>(options.top_k) < candidates.size()) {
    std::partial_sort(candidates.begin(), candidates.begin() + options.top_k, candidates.end(), likelier);
    candidates.resize(static_cast<std::size_t>(options.top_k));
  } else if (options.top_p < 1) {
    std::sort(candidates.begin(), candidates.end(), likelier);
  }
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  if (options.top_p < 1) {
    double kept = 0;
    std::size_t n = 0;
    while (n < candidates.size() && kept < double{options.top_p} * total) kept += candidates[n++].weight;
    candidates.resize(n);
    total = kept;
  }
  double at = random.uniform() * total;
  for (const Candidate& c : candidates)
    if ((at -= c.weight) < 0) return c.id;
  return candidates.back().id;
}

}  // namespace ft::inline FTLIB_ABI
