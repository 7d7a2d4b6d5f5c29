// optim/adamw8bit.shared.hpp: AdamW's moments in 8 bits: the code, and what one step works on, on any device.
#pragma once
#include <ftlib/optim/adamw.shared.hpp>  // AdamWFactors, Master

#include <array>  // std::array

namespace ft::inline FTLIB_ABI {

/// A code of 256 values from -1, or from 0, to 1, in ascending order. A moment is its block's largest magnitude times
/// one of them: "dynamic tree quantisation" of Dettmers et al., arXiv:2110.02861, section 2.1, as bitsandbytes 0.50 has
/// it.
using DynamicCode = std::array<float, 256>;

/// Each decade from 1e-7 to 1 has twice the values of the one below it, at the middles of equal parts; then 0 and 1.
constexpr DynamicCode dynamic_code(bool is_signed) {
  DynamicCode code{};
  std::size_t n = 0;
  double decade = 1e-6;  // the largest value of it
  for (int i = 0; i < 7; ++i, decade *= 10) {
    const int parts = is_signed ? 1 << i : 2 << i;
    for (int k = 0; k < parts; ++k) {
      const double middle = decade * (0.1 + 0.9 * (k + 0.5) / parts);
      code[n++] = static_cast<float>(middle);
      if (is_signed) code[n++] = static_cast<float>(-middle);
    }
  }
  code[n++] = 0;
  code[n++] = 1;
  for (std::size_t i = 1; i < n; ++i)  // in order
    for (std::size_t k = i; k > 0 && code[k] < code[k - 1]; --k) {
      const float x = code[k];
      code[k] = code[k - 1];
      code[k - 1] = x;
    }
  return code;
}

/// Elements that share a largest magnitude: consecutive ones of a parameter; the last block may be shorter.
inline constexpr int64_t moments_block = 256;

namespace detail {
/// The place in `code` of the value that is nearest to x, the lower one of two.
constexpr uint8_t nearest_code(const DynamicCode& code, float x) {
  int low = 0, high = 255;  // the last value that is not above x, or 0
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (code[static_cast<std::size_t>(middle)] <= x) low = middle;
    else high = middle - 1;
  }
  if (low < 255 && code[static_cast<std::size_t>(low + 1)] - x < x - code[static_cast<std::size_t>(low)]) ++low;
  return static_cast<uint8_t>(low);
}
}  // namespace detail

/// One parameter in a step of AdamW with moments in 8 bits. Views are contiguous.
template <Scalar T> struct AdamW8bitItem {
  View<T> w;                      // any shape
  uint8_t *m, *v;                 // of w's count: places in the signed and in the other code
  float *m_max, *v_max;           // one a block: the largest magnitude
  View<const accumulate_t<T>> g;  // gradient, of w's shape
  View<accumulate_t<T>> master;   // empty but for Master::float32
  AdamWFactors factors;
  uint64_t random;  // element i is rounded by number i % 8 of philox(seed, random + i / 8, 2)
};

}  // namespace ft::inline FTLIB_ABI
