// core/dtype.hpp: the number types: 16-bit floats, the run-time tag of a stored type, and the concepts over them.
#pragma once
#include <ftlib/core/error.hpp>

#include <array>        // std::array
#include <bit>          // std::bit_cast
#include <concepts>     // std::same_as
#include <cstddef>      // std::byte, std::size_t
#include <cstdint>      // std::int64_t
#include <ostream>      // std::ostream
#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

using std::int32_t;
using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

// Conversions are constexpr, so that nvcc lets kernels call them (--expt-relaxed-constexpr).

/// bfloat16: the upper half of a float (8 bits of exponent, 7 of mantissa). Rounds to nearest even; NaN stays NaN.
struct bfloat16 {
  uint16_t bits = 0;
  bfloat16() = default;
  constexpr explicit bfloat16(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? static_cast<uint16_t>((u >> 16) | 0x40u)
                                           : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  constexpr explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

/// IEEE 754 binary16. Conversion rounds to nearest even, keeps subnormals, infinities and NaN.
struct half {
  uint16_t bits = 0;
  half() = default;
  constexpr explicit half(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude >= 0x47800000u) {  // 65536 and above, infinity, NaN
      bits = static_cast<uint16_t>(sign | (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u));
    } else if (magnitude < 0x38800000u) {  // below 2^-14: let the float adder round at half's last subnormal bit
      const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
      bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(rounded) - 0x3f000000u));
    } else {
      const uint32_t odd = (magnitude >> 13) & 1u;
      bits = static_cast<uint16_t>(sign | ((magnitude + 0xc8000000u + 0xfffu + odd) >> 13));
    }
  }
  constexpr explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    if (rest < 0x400u) {  // zero and subnormals: rest * 2^-24
      const float value = static_cast<float>(rest) * 5.9604644775390625e-8f;
      return sign ? -value : value;
    }
    return std::bit_cast<float>(sign | ((rest << 13) + 0x38000000u));
  }
};

/// How the elements of a stored array lie in memory. Quantised types are ggml's blocks, and one of ftlib's own, NF4
/// (tensor/quantised.hpp).
enum class DType : uint8_t { f32, f64, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k, mxfp4, nf4 };

/// Facts about a DType: `block` elements take `bytes` bytes.
struct DTypeInfo {
  std::string_view name;
  int64_t block;
  int64_t bytes;
};

inline constexpr std::array<DTypeInfo, 14> dtype_table{{{"float32", 1, 4},
                                                        {"float64", 1, 8},
                                                        {"float16", 1, 2},
                                                        {"bfloat16", 1, 2},
                                                        {"Q8_0", 32, 34},
                                                        {"Q4_0", 32, 18},
                                                        {"Q4_1", 32, 20},
                                                        {"Q5_0", 32, 22},
                                                        {"Q5_1", 32, 24},
                                                        {"Q4_K", 256, 144},
                                                        {"Q5_K", 256, 176},
                                                        {"Q6_K", 256, 210},
                                                        {"MXFP4", 32, 17},
                                                        {"NF4", 256, 134}}};

constexpr const DTypeInfo& info(DType type) { return dtype_table[static_cast<std::size_t>(type)]; }
constexpr bool is_quantised(DType type) { return info(type).block > 1; }
/// Bytes of `count` elements; `count` must be a multiple of the block.
constexpr int64_t storage_bytes(DType type, int64_t count) { return count / info(type).block * info(type).bytes; }
inline std::ostream& operator<<(std::ostream& out, DType type) { return out << info(type).name; }

/// The compute types.
template <class T>
concept Scalar =
    std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, bfloat16> || std::same_as<T, half>;

/// What a tensor may hold: a compute type, or indices (tokens, positions, targets).
template <class T>
concept Element = Scalar<T> || std::same_as<T, int32_t>;

template <Scalar T> inline constexpr DType dtype_of = DType::f32;
template <> inline constexpr DType dtype_of<double> = DType::f64;
template <> inline constexpr DType dtype_of<bfloat16> = DType::bf16;
template <> inline constexpr DType dtype_of<half> = DType::f16;

namespace detail {
template <Scalar T> struct Accumulator { using type = float; };
template <> struct Accumulator<double> { using type = double; };
}  // namespace detail
/// What sums over T are kept in, parameters' gradients among them: double for double, else float.
template <Scalar T> using accumulate_t = typename detail::Accumulator<T>::type;

}  // namespace ft::inline FTLIB_ABI
