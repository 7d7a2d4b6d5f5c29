// ops/gemm_kernel.cpu.hpp: the innermost loop of the matrix product: a tile of C kept in vector registers. Compiler
// vector types, so one text serves AVX-512, AVX2 and 16-byte vectors (SSE, NEON), chosen by the compiler's flags.
#pragma once
#include <ftlib/ops/simd.cpu.hpp>  // Simd
#include <ftlib/tensor/view.hpp>   // Write

#include <array>  // std::array

namespace ft::inline FTLIB_ABI {
namespace detail {
inline namespace FTLIB_SIMD {

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

}  // namespace FTLIB_SIMD
}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
