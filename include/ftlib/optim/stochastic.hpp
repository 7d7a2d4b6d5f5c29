// optim/stochastic.hpp: rounding to 16 bits that goes up or down by chance, and so keeps small changes on average.
#pragma once
#include <ftlib/core/random.hpp>  // philox, bfloat16, half

namespace ft::inline FTLIB_ABI::detail {

/// Number k (0 to 7) of eight numbers of 16 bits.
constexpr uint32_t bits16(const std::array<uint32_t, 4>& words, int k) {
  uint32_t word = 0;  // chosen without an index, which would send a kernel's words to memory
  for (int i = 0; i < 4; ++i) word = i == k / 2 ? words[static_cast<std::size_t>(i)] : word;
  return (word >> (k % 2 * 16)) & 0xffffu;
}

/// x as one of the two T beside it, the nearer one the likelier, so that the mean over `random` in [0, 2^16) is x. What
/// T holds exactly stays, and what is not finite or too large becomes T(x).
template <Scalar T>
requires(sizeof(T) == 2) constexpr T round_by_chance(float x, uint32_t random) {
  const auto u = std::bit_cast<uint32_t>(x);
  const uint32_t sign = u & 0x80000000u, magnitude = u & 0x7fffffffu;
  T y;
  if constexpr (std::same_as<T, bfloat16>) {
    if (magnitude >= 0x7f7f0000u) return T(x);
    y.bits = static_cast<uint16_t>((u + random) >> 16);
  } else {
    if (magnitude >= 0x477fe000u) return T(x);
    if (magnitude >= 0x38800000u) {  // drops 13 bits of the mantissa
      y.bits = static_cast<uint16_t>((sign >> 16) | ((magnitude - 0x38000000u + (random >> 3)) >> 13));
    } else {  // below 2^-14 half counts in steps of 2^-24: fewer than 2^10, so 14 bits are left
      const float steps = std::bit_cast<float>(magnitude) * 0x1p24f + static_cast<float>(random >> 2) * 0x1p-14f;
      y.bits = static_cast<uint16_t>((sign >> 16) | static_cast<uint32_t>(steps));
    }
  }
  return y;
}

}  // namespace ft::inline FTLIB_ABI::detail
