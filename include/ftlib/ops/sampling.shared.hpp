// ops/sampling.shared.hpp: how the next token is chosen: the options, and the arithmetic that both devices share to the
// bit.
#pragma once
#include <ftlib/core/dtype.hpp>  // uint64_t, std::bit_cast

#include <algorithm>  // std::min
#include <cmath>      // std::log
#include <limits>     // std::numeric_limits
#include <numbers>    // std::numbers::ln2

namespace ft::inline FTLIB_ABI {

/// How the next token is chosen; the defaults are greedy. The lower id wins a tie.
struct Sampling {
  float repetition_penalty = 1;  // of tokens that the text holds already, the prompt's too: arXiv:1909.05858; 1: none
  float temperature = 0;         // logits are divided by it; 0: always the likeliest
  int32_t top_k = 0;             // only the k likeliest; 0: all
  float top_p = 1;  // of these, only the likeliest that together have this share of their sum: arXiv:1904.09751
  float min_p = 0;  // only those with this share of the likeliest's probability: arXiv:2407.01082

  /// Throws Error where a number is outside its range.
  void check() const {
    if (!(repetition_penalty > 0))
      throw Error(str("sampling: repetition_penalty ", repetition_penalty, " must be above 0"));
    if (!(temperature >= 0)) throw Error(str("sampling: temperature ", temperature, " must be 0 or above"));
    if (top_k < 0) throw Error(str("sampling: top_k ", top_k, " must be 0 or above"));
    if (!(top_p > 0 && top_p <= 1)) throw Error(str("sampling: top_p ", top_p, " is outside (0, 1]"));
    if (!(min_p >= 0 && min_p <= 1)) throw Error(str("sampling: min_p ", min_p, " is outside [0, 1]"));
  }
};

namespace detail {

// Weights are whole multiples of 2^-weight_bits of the largest, so their sums are exact in any order: that is how a CPU
// and a GPU, which add in different orders, choose the same token. So that 64 bits hold the sum of all weights, a
// vocabulary has at most most_tokens tokens.
inline constexpr int weight_bits = 40;
inline constexpr int32_t most_tokens = 1 << 23;

/// What the kernels need of Sampling's options.
struct SamplingRule {
  float repetition_penalty;
  bool greedy;
  float scale;     // log2(e) / temperature
  float reach;     // candidates lie at most so far below the largest logit: by min_p, and by weights that are not 0
  uint64_t top_k;  // 0: all
  double top_p;    //

  explicit SamplingRule(const Sampling& options)
      : repetition_penalty(options.repetition_penalty),
        greedy(options.temperature == 0),
        top_k(static_cast<uint64_t>(options.top_k)),
        top_p(double{options.top_p}) {
    const double temperature = double{options.temperature};
    constexpr double largest = double{std::numeric_limits<float>::max()};  // so that 0 scale is 0
    scale = greedy ? 0 : static_cast<float>(std::min(largest, std::numbers::log2e / temperature));
    reach =
        static_cast<float>(temperature * std::min(-std::log(double{options.min_p}), weight_bits * std::numbers::ln2));
  }
};

/// Order of likelihood, without ties: by logit, then the lower id first. NaN counts as -infinity, and -0 as 0.
constexpr uint64_t likelihood_rank(float logit, int32_t id, int32_t V) {
  auto bits = std::bit_cast<uint32_t>(logit);
  if ((bits & 0x7fffffffu) > 0x7f800000u) bits = 0xff800000u;
  if (bits == 0x80000000u) bits = 0;
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;  // now ordered as the floats are
  return uint64_t{bits} * static_cast<uint32_t>(V) + static_cast<uint32_t>(V - 1 - id);
}
constexpr int32_t id_of_rank(uint64_t rank, int32_t V) {
  return V - 1 - static_cast<int32_t>(rank % static_cast<uint32_t>(V));
}

/// 2^(weight_bits - t) for t >= 0, in whole numbers, because compilers contract sums of products and libraries differ
/// in exp(). Right within a share of 1e-8 where that is more than 1; 0 for NaN.
constexpr uint64_t sampling_weight(float t) {
  if (!(t < weight_bits)) return 0;
  const auto fixed = static_cast<uint32_t>(t * 0x1p26f);         // 6 bits before the point
  const auto times_f = [f = uint64_t{fixed << 6}](uint32_t p) {  // f: what is behind it, in units of 2^-32
    return static_cast<uint32_t>(p * f >> 32);
  };
  // 2^-f = 1 - c1 f + c2 f^2 - ..., in units of 2^-31; minimax on [0, 1] for the relative error, which is 2^-28.8
  uint32_t p = 2737500u - times_f(234125u);
  p = 20571131u - times_f(p);
  p = 119165493u - times_f(p);
  p = 515877902u - times_f(p);
  p = 1488521986u - times_f(p);
  p = 0x80000000u - times_f(p);
  return uint64_t{p} << (weight_bits - 31) >> (fixed >> 26);
}

/// What the likeliest must weigh together to have share top_p, in (0, 1], of `total`.
constexpr uint64_t top_p_target(double top_p, uint64_t total) {
  const double exact = top_p * static_cast<double>(total);
  const auto whole = static_cast<uint64_t>(exact);
  return std::min(total, whole + (static_cast<double>(whole) < exact ? 1 : 0));
}
/// Where a draw falls: on the first candidate, by id, whose weight and those before it sum to more than this.
constexpr uint64_t draw_position(double uniform, uint64_t total) {
  return std::min(total - 1, static_cast<uint64_t>(uniform * static_cast<double>(total)));
}

}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
