// ops/gemm_unpack.cpu.hpp: 32 elements of a stored weight made into vectors of T: what the matrix product's packing and
// its product by one row are built of. The values are dequantise_row's.
#pragma once
#include <ftlib/ops/gemm_kernel.cpu.hpp>  // Simd
#include <ftlib/tensor/quantised.hpp>     // the blocks

namespace ft::inline FTLIB_ABI {
namespace detail {
inline namespace FTLIB_SIMD {

/// Elements that are unpacked at a time. It divides every quantised block, and every tile's width divides it.
inline constexpr int chunk_size = 32;

/// chunk_size floats in registers.
struct Chunk {
  static constexpr int vectors = chunk_size / Simd<float>::lanes;
  Simd<float>::Vec v[vectors];
};
static_assert(chunk_size % Tile<float>::cols == 0 && chunk_size % Tile<double>::cols == 0);

typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint16_t Words __attribute__((vector_size(16)));

inline float read_half(const void* p) {
#if defined(__F16C__)
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return _cvtsh_ss(bits);
#else
  half h;
  std::memcpy(&h, p, sizeof h);
  return static_cast<float>(h);
#endif
}

/// out = d q + m for the 16 signed bytes q, into half a chunk.
[[gnu::always_inline]] inline void scale_bytes(const Bytes& q, float d, float m, Simd<float>::Vec* out) {
  using V [[maybe_unused]] = Simd<float>::Vec;
#if defined(__AVX512F__)
  out[0] = reinterpret_cast<V>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(q)))) * d + m;
#elif defined(__AVX2__) && defined(__FMA__)
  const auto x = reinterpret_cast<__m128i>(q);
  out[0] = reinterpret_cast<V>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x))) * d + m;
  out[1] = reinterpret_cast<V>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x)))) * d + m;
#else
  for (int i = 0; i < 16; ++i)
    out[i / Simd<float>::lanes][i % Simd<float>::lanes] = d * static_cast<float>(static_cast<int8_t>(q[i])) + m;
#endif
}

/// 16 where bit i of `bits` is set, for i = 0..15: the fifth bits of 16 elements.
[[gnu::always_inline]] inline Bytes spread_bits(uint32_t bits) {
  const uint8_t low = static_cast<uint8_t>(bits), high = static_cast<uint8_t>(bits >> 8);
  const Bytes both = {low, low, low, low, low, low, low, low, high, high, high, high, high, high, high, high};
  const Bytes mask = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return reinterpret_cast<Bytes>((both & mask) == mask) & 16;
}

/// Twice the values of 16 E2M1 numbers, as signed bytes.
[[gnu::always_inline]] inline Bytes twice_e2m1_bytes(const Bytes& bits) {
  const Bytes table = {0, 1, 2, 3, 4, 6, 8, 12, 0, 255, 254, 253, 252, 250, 248, 244};
#if defined(__SSSE3__)
  return reinterpret_cast<Bytes>(_mm_shuffle_epi8(reinterpret_cast<__m128i>(table), reinterpret_cast<__m128i>(bits)));
#else
  Bytes out;
  for (int i = 0; i < 16; ++i) out[i] = table[bits[i]];
  return out;
#endif
}

/// out = d level for 16 codes of NF4's, into half a chunk.
[[gnu::always_inline]] inline void scale_nf4(const Bytes& q, float d, Simd<float>::Vec* out) {
  using V [[maybe_unused]] = Simd<float>::Vec;
#if defined(__AVX512F__)
  const __m512i codes = _mm512_cvtepu8_epi32(reinterpret_cast<__m128i>(q));
  out[0] = reinterpret_cast<V>(_mm512_permutexvar_ps(codes, _mm512_loadu_ps(nf4_levels.of))) * d;
#elif defined(__AVX2__) && defined(__FMA__)
  const auto x = reinterpret_cast<__m128i>(q);
  const __m256 low = _mm256_loadu_ps(nf4_levels.of), high = _mm256_loadu_ps(nf4_levels.of + 8);
  const auto levels = [&](__m128i eight) __attribute__((always_inline)) {
    const __m256i codes = _mm256_cvtepu8_epi32(eight);  // the fourth bit chooses the table
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes),
                            _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
  };
  out[0] = reinterpret_cast<V>(levels(x)) * d;
  out[1] = reinterpret_cast<V>(levels(_mm_unpackhi_epi64(x, x))) * d;
#else
  for (int i = 0; i < 16; ++i) out[i / Simd<float>::lanes][i % Simd<float>::lanes] = d * nf4_levels.of[q[i]];
#endif
}

/// Element 32 chunk of a row of type D, and the 31 behind it, all of which must lie in the row.
template <DType D> [[gnu::always_inline]] inline void unpack(const std::byte* row, int64_t chunk, Chunk& out) {
  using V = Simd<float>::Vec;
  constexpr int lanes = Simd<float>::lanes;
  [[maybe_unused]] V *const first = out.v, *const second = out.v + Chunk::vectors / 2;
  constexpr int64_t bytes = info(D).bytes;
  if constexpr (info(D).block == 1) {
    [[maybe_unused]] const std::byte* p = row + chunk * chunk_size * bytes;
    unroll<Chunk::vectors>([&](auto i) __attribute__((always_inline)) {
      const std::byte* pi = p + i * lanes * bytes;
      if constexpr (D == DType::f32) {
        out.v[i] = load<V>(pi);
        return;
      }
#if defined(__AVX512F__)
      if constexpr (D == DType::f16) {
        out.v[i] = reinterpret_cast<V>(_mm512_cvtph_ps(load<__m256i>(pi)));
        return;
      }
      if constexpr (D == DType::bf16) {
        out.v[i] = reinterpret_cast<V>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(pi)), 16));
        return;
      }
#elif defined(__AVX2__) && defined(__FMA__)
#if defined(__F16C__)
      if constexpr (D == DType::f16) {
        out.v[i] = reinterpret_cast<V>(_mm256_cvtph_ps(load<__m128i>(pi)));
        return;
      }
#endif
      if constexpr (D == DType::bf16) {
        out.v[i] = reinterpret_cast<V>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(pi)), 16));
        return;
      }
#endif
      typename BlockOf<D>::Block x[lanes];
      std::memcpy(x, pi, sizeof x);
      float values[lanes];  // nvcc cannot assign to one element of a vector
      for (int j = 0; j < lanes; ++j) values[j] = static_cast<float>(x[j]);
      out.v[i] = load<V>(values);
    });
  } else if constexpr (info(D).block == 32) {
    const std::byte* p = row + chunk * bytes;
    const float d = D == DType::mxfp4 ? half_power(static_cast<uint8_t>(*p)) : read_half(p);
    if constexpr (D == DType::mxfp4) {
      const Bytes q = load<Bytes>(p + 1);
      scale_bytes(twice_e2m1_bytes(q & 15), d, 0, first);
      scale_bytes(twice_e2m1_bytes(q >> 4), d, 0, second);
    } else if constexpr (D == DType::q8_0) {
      scale_bytes(load<Bytes>(p + 2), d, 0, first);
      scale_bytes(load<Bytes>(p + 18), d, 0, second);
    } else {
      constexpr bool has_min = D == DType::q4_1 || D == DType::q5_1;
      constexpr bool five = D == DType::q5_0 || D == DType::q5_1;
      constexpr uint8_t middle = D == DType::q4_0 ? 8 : D == DType::q5_0 ? 16 : 0;
      const float m = has_min ? read_half(p + 2) : 0.0f;
      const Bytes q = load<Bytes>(p + bytes - 16);
      Bytes low = q & 15, high = q >> 4;
      if constexpr (five) {
        const auto bits = load<uint32_t>(p + bytes - 20);
        low |= spread_bits(bits);
        high |= spread_bits(bits >> 16);
      }
      scale_bytes(low - middle, d, m, first);
      scale_bytes(high - middle, d, m, second);
    }
  } else {
    const std::byte* p = row + chunk / 8 * bytes;
    const auto j = static_cast<int>(chunk % 8);
    // Four bits of each byte, j's parity or half says which; whole words are shifted, so strangers' bits are masked.
    const auto nibbles = [](const std::byte* at, int shift) __attribute__((always_inline)) {
      return reinterpret_cast<Bytes>(load<Words>(at) >> static_cast<uint16_t>(shift)) & 15;
    };
    if constexpr (D == DType::nf4) {
      const Bytes q = load<Bytes>(p + 6 + 16 * j);
      const float d = nf4_scale(read_half(p), load<uint8_t>(p + 2 + j / 2));
      scale_nf4(q & 15, d, first);
      scale_nf4(q >> 4, d, second);
    } else if constexpr (D == DType::q6_k) {
      const std::byte* low = p + j / 4 * 64 + j % 2 * 32;
      const std::byte* high = p + 128 + j / 4 * 32;
      const int low_shift = j % 4 / 2 * 4, high_shift = j % 4 * 2;
      const float d = read_half(p + 208);
      const auto scale = [&](int i) { return d * static_cast<float>(load<int8_t>(p + 192 + 2 * j + i)); };
      const auto half_chunk = [&](int at) __attribute__((always_inline)) {
        const Bytes top = reinterpret_cast<Bytes>(load<Words>(high + at) >> static_cast<uint16_t>(high_shift)) & 3;
        return (nibbles(low + at, low_shift) | (top << 4)) - 32;
      };
      scale_bytes(half_chunk(0), scale(0), 0, first);
      scale_bytes(half_chunk(16), scale(1), 0, second);
    } else {
      const auto* scales = reinterpret_cast<const uint8_t*>(p + 4);
      const float d = read_half(p) * static_cast<float>(k_scale(scales, j));
      const float m = -read_half(p + 2) * static_cast<float>(k_min(scales, j));
      const std::byte* q = p + bytes - 128 + j / 2 * 32;
      Bytes low = nibbles(q, j % 2 * 4), high = nibbles(q + 16, j % 2 * 4);
      if constexpr (D == DType::q5_k) {
        const auto one = static_cast<uint8_t>(1 << j);  // alone: g++ with -fsanitize=undefined takes it for an int
        const Bytes bit = Bytes{} + one;
        low |= reinterpret_cast<Bytes>((load<Bytes>(p + 16) & bit) == bit) & 16;
        high |= reinterpret_cast<Bytes>((load<Bytes>(p + 32) & bit) == bit) & 16;
      }
      scale_bytes(low, d, m, first);
      scale_bytes(high, d, m, second);
    }
  }
}

/// out[i] = element first + i of a row of type D, i in [0, count); first is a multiple of chunk_size.
template <DType D> [[gnu::noinline]] void unpack_row(const std::byte* row, int64_t first, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + chunk_size <= count; i += chunk_size) {
    Chunk chunk;
    unpack<D>(row, (first + i) / chunk_size, chunk);
    std::memcpy(out + i, chunk.v, sizeof chunk.v);
  }
  if (i < count) dequantise_row(D, row, first + i, count - i, out + i);
}

/// unpack_row for a type known at run time, into float or double (of float values, except that f64 keeps its bits).
template <class T> class RowReader {
 public:
  explicit RowReader(DType type) : type_(type), unpack_(with_dtype(type, [&]<DType D>() { return &unpack_row<D>; })) {}

  void operator()(const std::byte* row, int64_t first, int64_t count, T* out) const {
    if constexpr (std::same_as<T, float>) {
      unpack_(row, first, count, out);
    } else if (type_ == DType::f64) {
      std::memcpy(out, row + first * int64_t{sizeof(T)}, static_cast<std::size_t>(count) * sizeof(T));
    } else {
      float values[chunk_size];
      for (int64_t i = 0; i < count; i += chunk_size) {
        const int64_t n = std::min<int64_t>(chunk_size, count - i);
        unpack_(row, first + i, n, values);
        std::copy(values, values + n, out + i);
      }
    }
  }

 private:
  DType type_;
  void (*unpack_)(const std::byte*, int64_t, int64_t, float*);
};

}  // namespace FTLIB_SIMD
}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
