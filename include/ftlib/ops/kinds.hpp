// ops/kinds.hpp: choices that an op's kernels have in common on any device.
#pragma once
#include <ftlib/core/version.hpp>

#include <cstdint>  // std::int64_t

namespace ft::inline FTLIB_ABI {

/// What softmax gives: the probabilities, or their logarithms.
enum class SoftmaxResult { probability, logarithm };

/// Which elements of a head turn together. half_split: i and i + R / 2 (Llama, NeoX and all of Hugging Face);
/// interleaved: 2 i and 2 i + 1 (GPT-J, the paper, GGUF's permuted Llama). R is the rotary size.
enum class RopePairing { half_split, interleaved };

/// Which keys a query may look at. causal: those up to its own position, the last query being at the last key.
enum class Mask { causal, none };

/// One run of queries and the keys that they may look at: rows [q_begin, q_end) of q, [k_begin, k_end) of k and v.
struct Segment {
  std::int64_t q_begin, q_end, k_begin, k_end;
};

struct AttentionOptions {
  Mask mask = Mask::causal;
  std::int64_t window = 0;  // with Mask::causal, a query sees the last so many keys, its own included; 0: all
  float scale = 0;          // of the scores; 0: 1 / sqrt(head size)
  // Set by attention() from the bias that it is given: (H, 2 reach + 1), on the device.
  const float* bias = nullptr;
  std::int64_t reach = 0;
};

namespace detail {
struct Silu {};      // x s with s = 1 / (1 + e^-x);  f' = s (1 + x (1 - s))
struct Gelu {};      // x Phi(x), Phi the normal distribution;  f' = Phi(x) + x e^(-x^2 / 2) / sqrt(2 pi)
struct GeluTanh {};  // 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3)           arXiv:1606.08415
struct Relu {};      // max(x, 0);  f'(0) = 0
struct Sigmoid {};   // s = 1 / (1 + e^-x);  f' = s (1 - s)
struct Tanh {};      // f' = 1 - f^2
// gpt-oss: g s with g = min(x, 7) and s = 1 / (1 + e^(-1.702 g));  f' = s (1 + 1.702 g (1 - s)), 0 from 7 on
struct LimitedSilu {};
struct LimitedUp {};  // gpt-oss: min(max(x, -7), 7) + 1;  f' = 1, 0 where |x| >= 7
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
