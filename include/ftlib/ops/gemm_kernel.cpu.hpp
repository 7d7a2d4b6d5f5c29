// ops/gemm_kernel.cpu.hpp: the innermost loop of the matrix product: a tile of C kept in vector registers. Compiler
// vector types, so one text serves AVX-512, AVX2 and 16-byte vectors (SSE, NEON), chosen by the compiler's flags.
#pragma once
#include <ftlib/core/dtype.hpp>   // int64_t
#include <ftlib/tensor/view.hpp>  // Write

#include <array>        // std::array
#include <cstring>      // std::memcpy
#include <type_traits>  // std::integral_constant
#include <utility>      // std::index_sequence

#if defined(__AVX2__)
#include <immintrin.h>  // widening conversions, which GCC 12 does not find by itself
#endif

// The instruction set is part of the name of all that depends on it: two translation units with other flags in one
// program must not share an inline function whose panels have another width.
#if defined(__AVX512F__)
#define FTLIB_SIMD avx512
#define FTLIB_SIMD_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define FTLIB_SIMD avx2
#define FTLIB_SIMD_BYTES 32
#else
#define FTLIB_SIMD generic
#define FTLIB_SIMD_BYTES 16
#endif

namespace ft::inline FTLIB_ABI {
namespace detail {
inline namespace FTLIB_SIMD {

template <class T> struct Simd;
template <> struct Simd<float> {
  typedef float Vec __attribute__((vector_size(FTLIB_SIMD_BYTES)));
  static constexpr int lanes = FTLIB_SIMD_BYTES / 4;
};
template <> struct Simd<double> {
  typedef double Vec __attribute__((vector_size(FTLIB_SIMD_BYTES)));
  static constexpr int lanes = FTLIB_SIMD_BYTES / 8;
};

/// The tile: `rows` of A times two vectors of B. Accumulators, one row of B and a broadcast element of A fill the
/// registers: 28 + 2 + 1 of 32 (AVX-512), 12 + 2 + 1 of 16 (AVX2), 8 + 2 + 1 of 16 (SSE; NEON has 32).
template <class T> struct Tile {
#if defined(__AVX512F__)
  static constexpr int rows = 14;
#elif defined(__AVX2__) && defined(__FMA__)
  static constexpr int rows = 6;
#elif defined(__aarch64__)
  static constexpr int rows = 8;
#else
  static constexpr int rows = 4;
#endif
  static constexpr int cols = 2 * Simd<T>::lanes;
};

template <class V> V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V> void store(void* p, const V& v) { std::memcpy(p, &v, sizeof v); }

/// f(integral_constant 0), ..., f(integral_constant N - 1), written out: arrays indexed by it stay in registers at any
/// level of optimisation.
template <int N, class F> [[gnu::always_inline]] inline void unroll(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

/// What is done with a finished tile: c = or += alpha tile + bias.
template <class T> struct Epilogue {
  Write write;
  T alpha;
  const T* bias;  // one value for each column of the tile, or null
};

/// Where a tile's rows of A lie: in a packed panel, or as they are in the matrix.
enum class Rows { packed, in_place };

/// A tile of H rows and Tile<T>::cols columns: the sum over k of a's column times b's row, then the epilogue into c.
template <class T, int H, Rows rows>
void tile_kernel(int64_t k,
                 const T* a,  // (k, H)     packed, or (H, k) with these strides
                 int64_t a_row_stride, int64_t a_col_stride,
                 const T* b,  // (k, cols)  packed
                 T* c, int64_t c_row_stride, const Epilogue<T>& epilogue) {
  using V = typename Simd<T>::Vec;
  constexpr int lanes = Simd<T>::lanes;
  V sum[H][2] = {};
  // c's rows are far apart: no hardware prefetcher finds them, and the epilogue would wait.
  unroll<H>([&](auto i) __attribute__((always_inline)) {
    __builtin_prefetch(c + i * c_row_stride, 1);
    __builtin_prefetch(c + i * c_row_stride + 2 * lanes - 1, 1);
  });
  const auto step = [&](const T* ak, const T* bk) __attribute__((always_inline)) {
    const V b0 = load<V>(bk), b1 = load<V>(bk + lanes);
    unroll<H>([&](auto i) __attribute__((always_inline)) {
      const T x = ak[rows == Rows::packed ? i : i * a_row_stride];
      sum[i][0] += x * b0;
      sum[i][1] += x * b1;
    });
  };
  // Not unrolled over k: GCC 12 then reads b from memory once a row, which costs an eighth of the speed.
  for (; k > 0; --k, a += rows == Rows::packed ? H : a_col_stride, b += 2 * lanes) step(a, b);

  V bias0{}, bias1{};
  if (epilogue.bias) {
    bias0 = load<V>(epilogue.bias);
    bias1 = load<V>(epilogue.bias + lanes);
  }
  unroll<H>([&](auto i) __attribute__((always_inline)) {
    sum[i][0] = sum[i][0] * epilogue.alpha + bias0;
    sum[i][1] = sum[i][1] * epilogue.alpha + bias1;
  });
  if (epilogue.write == Write::add) {
    unroll<H>([&](auto i) __attribute__((always_inline)) {
      T* ci = c + i * c_row_stride;
      sum[i][0] += load<V>(ci);
      sum[i][1] += load<V>(ci + lanes);
    });
  }
  unroll<H>([&](auto i) __attribute__((always_inline)) {
    T* ci = c + i * c_row_stride;
    store(ci, sum[i][0]);
    store(ci + lanes, sum[i][1]);
  });
}

template <class T>
using TileKernel = void (*)(int64_t, const T*, int64_t, int64_t, const T*, T*, int64_t, const Epilogue<T>&);

/// The kernels for tiles of 1, ..., Tile<T>::rows rows.
template <class T, Rows rows> inline constexpr auto tile_kernels = []<int... i>(std::integer_sequence<int, i...>) {
  return std::array<TileKernel<T>, sizeof...(i)>{&tile_kernel<T, i + 1, rows>...};
}
(std::make_integer_sequence<int, Tile<T>::rows>{});

/// Element j is element at(j) of a and b as one row. Spelled out, because nvcc loses a parameter pack in here.
template <auto at, class V> [[gnu::always_inline]] inline V shuffled(V a, V b) {
  constexpr int lanes = sizeof(V) / sizeof(a[0]);
  if constexpr (lanes == 2) return __builtin_shufflevector(a, b, at(0), at(1));
  else if constexpr (lanes == 4) return __builtin_shufflevector(a, b, at(0), at(1), at(2), at(3));
  else if constexpr (lanes == 8)
    return __builtin_shufflevector(a, b, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
  else
    return __builtin_shufflevector(a, b, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10),
                                   at(11), at(12), at(13), at(14), at(15));
}
// Which elements of two rows make the upper and the lower one, once off-diagonal blocks have been swapped.
template <int distance, int lanes> constexpr int upper_row(int j) { return j & distance ? lanes + j - distance : j; }
template <int distance, int lanes> constexpr int lower_row(int j) { return j & distance ? lanes + j : j + distance; }
/// lanes x lanes transposed in registers: log2(lanes) rounds that swap ever smaller off-diagonal blocks.
template <class T> [[gnu::always_inline]] inline void transpose(typename Simd<T>::Vec (&x)[Simd<T>::lanes]) {
  using V = typename Simd<T>::Vec;
  constexpr int lanes = Simd<T>::lanes;
  const auto round = [&](auto distance) __attribute__((always_inline)) {
    unroll<lanes>([&](auto i) __attribute__((always_inline)) {
      if constexpr ((i & distance) == 0) {
        const V top = x[i], bottom = x[i + distance];
        x[i] = shuffled<upper_row<distance, lanes>>(top, bottom);
        x[i + distance] = shuffled<lower_row<distance, lanes>>(top, bottom);
      }
    });
  };
  if constexpr (lanes >= 16) round(std::integral_constant<int, 8>{});
  if constexpr (lanes >= 8) round(std::integral_constant<int, 4>{});
  if constexpr (lanes >= 4) round(std::integral_constant<int, 2>{});
  round(std::integral_constant<int, 1>{});
}

}  // namespace FTLIB_SIMD
}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
