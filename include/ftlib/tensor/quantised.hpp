// tensor/quantised.hpp: quantised blocks, ggml's and NF4: how they lie in memory and what they stand for.
#pragma once
#include <ftlib/core/dtype.hpp>  // DType, half, bfloat16

#include <algorithm>  // std::min
#include <bit>        // std::bit_cast
#include <cstring>    // std::memcpy

// On a function that host and device code may both call.
#ifndef FTLIB_HD
#ifdef __CUDACC__
#define FTLIB_HD __host__ __device__
#else
#define FTLIB_HD
#endif
#endif

namespace ft::inline FTLIB_ABI {

// The blocks of ggml (ggml-common.h), little-endian, without padding. In a block of 32, the low nibble of q[i] is
// element i and the high one element i + 16; the fifth bit of element i is bit i of `high`. In a file a block may lie
// at any address: memcpy it into one of these.

struct BlockQ8_0 {  // d q
  half d;
  int8_t q[32];
};
struct BlockQ4_0 {  // d (q - 8)
  half d;
  uint8_t q[16];
};
struct BlockQ4_1 {  // d q + m
  half d, m;
  uint8_t q[16];
};
struct BlockQ5_0 {  // d (q - 16)
  half d;
  uint8_t high[4], q[16];
};
struct BlockQ5_1 {  // d q + m
  half d, m;
  uint8_t high[4], q[16];
};
struct BlockQ4_K {  // d scale q - dmin min, a scale and a min of six bits for each 32 elements
  half d, dmin;
  uint8_t scales[12], q[128];  // q[32 j + i]: low nibble element 64 j + i, high nibble element 64 j + 32 + i
};
struct BlockQ5_K {  // as Q4_K, and bit j of high[i] is the fifth bit of element 32 j + i
  half d, dmin;
  uint8_t scales[12], high[32], q[128];
};
struct BlockQ6_K {  // d scale (q - 32), a scale for each 16 elements
  uint8_t low[128], high[64];
  int8_t scales[16];
  half d;
};
struct BlockMXFP4 {  // 2^(e - 128) times twice the value of the four bits of an E2M1 number    OCP Microscaling 1.0
  uint8_t e, q[16];
};
// Level times the largest magnitude of its 64, d (absmax / 255)^2, d being the largest of all: 4.19 bits an element.
// The levels, and which is chosen, are QLoRA's (arXiv:2305.14314) and bitsandbytes'; there 256 magnitudes share a mean
// and a float, here four a half, so that a row is whole blocks. Low nibble of q[16 j + i]: element 32 j + i, high: 32 j
// + 16 + i.
struct BlockNF4 {
  half d;
  uint8_t absmax[4], q[128];
};
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 &&
              sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24 && sizeof(BlockQ4_K) == 144 &&
              sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210 && sizeof(BlockMXFP4) == 17 &&
              sizeof(BlockNF4) == 134);

namespace detail {
template <DType type> struct BlockOf;
template <> struct BlockOf<DType::q8_0> { using Block = BlockQ8_0; };
template <> struct BlockOf<DType::q4_0> { using Block = BlockQ4_0; };
template <> struct BlockOf<DType::q4_1> { using Block = BlockQ4_1; };
template <> struct BlockOf<DType::q5_0> { using Block = BlockQ5_0; };
template <> struct BlockOf<DType::q5_1> { using Block = BlockQ5_1; };
template <> struct BlockOf<DType::q4_k> { using Block = BlockQ4_K; };
template <> struct BlockOf<DType::q5_k> { using Block = BlockQ5_K; };
template <> struct BlockOf<DType::q6_k> { using Block = BlockQ6_K; };
template <> struct BlockOf<DType::mxfp4> { using Block = BlockMXFP4; };
template <> struct BlockOf<DType::nf4> { using Block = BlockNF4; };
template <> struct BlockOf<DType::f32> { using Block = float; };
template <> struct BlockOf<DType::f64> { using Block = double; };
template <> struct BlockOf<DType::f16> { using Block = half; };
template <> struct BlockOf<DType::bf16> { using Block = bfloat16; };

FTLIB_HD inline int nibble(const uint8_t* q, int i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }
FTLIB_HD inline int fifth_bit(const uint8_t* high, int i) { return ((high[i / 8] >> (i % 8)) & 1) << 4; }

/// The six-bit scale and min of group j (of eight) of a Q4_K or Q5_K block.
FTLIB_HD inline int k_scale(const uint8_t* s, int j) {
  return j < 4 ? s[j] & 63 : (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
}
FTLIB_HD inline int k_min(const uint8_t* s, int j) {
  return j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
}
/// 2^(e - 128), subnormal for e of 0 and 1.
FTLIB_HD inline float half_power(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? uint32_t{0x200000} << e : uint32_t{e - 1u} << 23);
}
/// Twice the value of an E2M1 number: 0, 1, 2, 3, 4, 6, 8 or 12, negative where the fourth bit is set.
FTLIB_HD inline int twice_e2m1(int bits) {
  const int magnitude = static_cast<int>(uint64_t{0x0c08060403020100} >> (8 * (bits & 7)) & 255);
  return bits & 8 ? -magnitude : magnitude;
}
/// NF4's levels: quantiles of a normal distribution, with a zero, over their largest.          arXiv:2305.14314, E
struct Nf4Levels {
  float of[16] = {-1.0f,
                  -0.6961928009986877f,
                  -0.5250730514526367f,
                  -0.39491748809814453f,
                  -0.28444138169288635f,
                  -0.18477343022823334f,
                  -0.09105003625154495f,
                  0.0f,
                  0.07958029955625534f,
                  0.16093020141124725f,
                  0.24611230194568634f,
                  0.33791524171829224f,
                  0.44070982933044434f,
                  0.5626170039176941f,
                  0.7229568362236023f,
                  1.0f};
};
inline constexpr Nf4Levels nf4_levels;
/// What they are times. Rounds twice, everywhere in this order.
FTLIB_HD inline float nf4_scale(float d, int absmax) {
  return d * (static_cast<float>(absmax * absmax) * (1.0f / (255 * 255)));
}
/// A level without a table, for device code, which reads none of the host's.
FTLIB_HD inline float nf4_level(int bits) {
  const auto one_of = [bits](int k, float a, float b) { return bits >> k & 1 ? b : a; };
  const auto two = [&](float a, float b, float c, float d) { return one_of(1, one_of(0, a, b), one_of(0, c, d)); };
  constexpr Nf4Levels l;
  return one_of(3, one_of(2, two(l.of[0], l.of[1], l.of[2], l.of[3]), two(l.of[4], l.of[5], l.of[6], l.of[7])),
                one_of(2, two(l.of[8], l.of[9], l.of[10], l.of[11]), two(l.of[12], l.of[13], l.of[14], l.of[15])));
}
}  // namespace detail

/// The value of element i of a block. Every product below is exact in float (11 bits of d, 6 of a scale, at most 8 of
/// q), so the results are ggml's to the last bit, whether or not a compiler fuses the multiplication and the addition.
FTLIB_HD inline float dequantise(const BlockQ8_0& b, int i) {
  return static_cast<float>(b.d) * static_cast<float>(b.q[i]);
}
FTLIB_HD inline float dequantise(const BlockQ4_0& b, int i) {
  return static_cast<float>(b.d) * static_cast<float>(detail::nibble(b.q, i) - 8);
}
FTLIB_HD inline float dequantise(const BlockQ4_1& b, int i) {
  return static_cast<float>(b.d) * static_cast<float>(detail::nibble(b.q, i)) + static_cast<float>(b.m);
}
FTLIB_HD inline float dequantise(const BlockQ5_0& b, int i) {
  return static_cast<float>(b.d) * static_cast<float>((detail::nibble(b.q, i) | detail::fifth_bit(b.high, i)) - 16);
}
FTLIB_HD inline float dequantise(const BlockQ5_1& b, int i) {
  return static_cast<float>(b.d) * static_cast<float>(detail::nibble(b.q, i) | detail::fifth_bit(b.high, i)) +
         static_cast<float>(b.m);
}
FTLIB_HD inline float dequantise(const BlockQ4_K& b, int i) {
  const int j = i / 32, q = (b.q[i / 64 * 32 + i % 32] >> (j % 2 * 4)) & 15;
  return static_cast<float>(b.d) * static_cast<float>(detail::k_scale(b.scales, j)) * static_cast<float>(q) -
         static_cast<float>(b.dmin) * static_cast<float>(detail::k_min(b.scales, j));
}
FTLIB_HD inline float dequantise(const BlockQ5_K& b, int i) {
  const int j = i / 32, low = (b.q[i / 64 * 32 + i % 32] >> (j % 2 * 4)) & 15, high = (b.high[i % 32] >> j) & 1;
  return static_cast<float>(b.d) * static_cast<float>(detail::k_scale(b.scales, j)) *
             static_cast<float>(low | (high << 4)) -
         static_cast<float>(b.dmin) * static_cast<float>(detail::k_min(b.scales, j));
}
FTLIB_HD inline float dequantise(const BlockQ6_K& b, int i) {
  const int half_block = i / 128, j = i % 128 / 32, l = i % 32;  // four groups of 32 share 32 bytes of high bits
  const int low = (b.low[half_block * 64 + j % 2 * 32 + l] >> (j / 2 * 4)) & 15;
  const int high = (b.high[half_block * 32 + l] >> (2 * j)) & 3;
  return static_cast<float>(b.d) * static_cast<float>(b.scales[i / 16]) * static_cast<float>((low | (high << 4)) - 32);
}
FTLIB_HD inline float dequantise(const BlockMXFP4& b, int i) {
  return detail::half_power(b.e) * static_cast<float>(detail::twice_e2m1(detail::nibble(b.q, i)));
}
FTLIB_HD inline float dequantise(const BlockNF4& b, int i) {
  return detail::nf4_scale(static_cast<float>(b.d), b.absmax[i / 64]) *
         detail::nf4_level(detail::nibble(b.q + i / 32 * 16, i % 32));
}
FTLIB_HD inline float dequantise(float b, int) { return b; }
FTLIB_HD inline double dequantise(double b, int) { return b; }
FTLIB_HD inline float dequantise(half b, int) { return static_cast<float>(b); }
FTLIB_HD inline float dequantise(bfloat16 b, int) { return static_cast<float>(b); }

namespace detail {
/// f.template operator()<type>() for the run-time `type`.
template <class F> decltype(auto) with_dtype(DType type, F&& f) {
  switch (type) {
    case DType::f32:
      return f.template operator()<DType::f32>();
    case DType::f64:
      return f.template operator()<DType::f64>();
    case DType::f16:
      return f.template operator()<DType::f16>();
    case DType::bf16:
      return f.template operator()<DType::bf16>();
    case DType::q8_0:
      return f.template operator()<DType::q8_0>();
    case DType::q4_0:
      return f.template operator()<DType::q4_0>();
    case DType::q4_1:
      return f.template operator()<DType::q4_1>();
    case DType::q5_0:
      return f.template operator()<DType::q5_0>();
    case DType::q5_1:
      return f.template operator()<DType::q5_1>();
    case DType::q4_k:
      return f.template operator()<DType::q4_k>();
    case DType::q5_k:
      return f.template operator()<DType::q5_k>();
    case DType::q6_k:
      return f.template operator()<DType::q6_k>();
    case DType::mxfp4:
      return f.template operator()<DType::mxfp4>();
    case DType::nf4:
      return f.template operator()<DType::nf4>();
  }
  throw Error(str("dtype: no such type ", static_cast<int>(type)));
}
}  // namespace detail

/// out[i] = element first + i of a stored row, i in [0, count). Reads only the blocks that hold these elements, at any
/// alignment. Values are rounded to float (double for f64) before they become T.
template <Scalar T> void dequantise_row(DType type, const std::byte* row, int64_t first, int64_t count, T* out) {
  detail::with_dtype(type, [&]<DType D>() {
    using Block = typename detail::BlockOf<D>::Block;
    constexpr int64_t size = info(D).block;
    for (int64_t i = first; i < first + count;) {
      const int64_t begin = i % size, end = std::min(size, begin + first + count - i);
      Block block;
      std::memcpy(&block, row + i / size * info(D).bytes, sizeof block);
      for (int64_t j = begin; j < end; ++j)
        *out++ = static_cast<T>(static_cast<accumulate_t<T>>(dequantise(block, static_cast<int>(j))));
      i += end - begin;
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
