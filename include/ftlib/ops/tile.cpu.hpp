// ops/tile.cpu.hpp: small matrix products from L1, for ops that multiply tiles on their way (attention). The weights'
// products are in ops/gemm.
#pragma once
#include <ftlib/ops/simd.cpu.hpp>  // Vec, transpose
#include <ftlib/tensor/view.hpp>   // Write

#include <array>        // std::array
#include <type_traits>  // std::integral_constant

namespace ft::inline FTLIB_ABI::detail {
inline namespace FTLIB_SIMD {

/// A tile is at most 6 rows of 2 vectors: 12 sums, 2 vectors of b and 1 of a fill AVX2's 16 registers.
inline constexpr int tile_rows = 6;
template <Scalar T> inline constexpr int tile_cols = 2 * Simd<T>::lanes;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/// c (M, W) = or += a b over `depth`, W = tile_cols<T>: a's element (i, d) is a[i][d * a_step], b's row d starts at
/// b + d * b_step.
template <int M, Scalar T>
void tile_product(T* c, int64_t c_step, const std::array<const T*, tile_rows>& a, int64_t a_step, const T* b,
                  int64_t b_step, int64_t depth, Write write) {
  using V = Vec<T>;
  constexpr int lanes = Simd<T>::lanes;
  V left[M] = {}, right[M] = {};
  if (write == Write::add)
    unroll<M>([&](auto i) __attribute__((always_inline)) {
      left[i] = load<V>(c + i * c_step);
      right[i] = load<V>(c + i * c_step + lanes);
    });
  const T* rows[M];
  unroll<M>([&](auto i) __attribute__((always_inline)) { rows[i] = a[static_cast<std::size_t>(int{i})]; });
  for (int64_t d = 0, at = 0; d < depth; ++d, at += a_step, b += b_step) {
    const V b0 = load<V>(b), b1 = load<V>(b + lanes);
    unroll<M>([&](auto i) __attribute__((always_inline)) {
      const T x = rows[i][at];
      left[i] += x * b0;
      right[i] += x * b1;
    });
  }
  unroll<M>([&](auto i) __attribute__((always_inline)) {
    store(c + i * c_step, left[i]);
    store(c + i * c_step + lanes, right[i]);
  });
}

/// f(std::integral_constant<int, m>) for m in 1 ... tile_rows.
template <class F> void with_rows(int64_t m, F f) {
  switch (m) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    case 5:
      return f(std::integral_constant<int, 5>{});
    default:
      return f(std::integral_constant<int, 6>{});
  }
}

/// Panels of x (n, size), W columns each: to[p][i][w] = x[i][p W + w], zeros past the last column. x's row i is at
/// row(i). Takes round_up(size, W) * n elements.
template <Scalar T, class Row> void pack_panels(T* to, Row row, int64_t n, int64_t size) {
  constexpr int W = tile_cols<T>;
  for (int64_t i = 0; i < n; ++i) {
    const T* x = row(i);
    T* at = to + i * W;
    int64_t c = 0;
    for (; c + W <= size; c += W, at += n * W)
      for (int w = 0; w < W; ++w) at[w] = x[c + w];
    if (c < size)
      for (int w = 0; w < W; ++w) at[w] = c + w < size ? x[c + w] : T(0);
  }
}

/// Panels of x transposed (size, n), W columns each: to[p][d][w] = x[p W + w][d], zeros past the last row of x. Takes
/// round_up(n, W) * size elements.
template <Scalar T, class Row> void pack_transposed(T* to, Row row, int64_t n, int64_t size) {
  constexpr int W = tile_cols<T>, lanes = Simd<T>::lanes;
  for (int64_t i = 0; i < n; i += lanes) {
    T* at = to + i / W * W * size + i % W;
    int64_t d = 0;
    if (i + lanes <= n)
      for (; d + lanes <= size; d += lanes) {
        Vec<T> x[lanes];
        unroll<lanes>([&](auto k) __attribute__((always_inline)) { x[k] = load<Vec<T>>(row(i + k) + d); });
        transpose<T>(x);
        unroll<lanes>([&](auto k) __attribute__((always_inline)) { store(at + (d + k) * W, x[k]); });
      }
    for (; d < size; ++d)
      for (int k = 0; k < lanes; ++k) at[d * W + k] = i + k < n ? row(i + k)[d] : T(0);
  }
  if (const int64_t end = round_up(n, lanes); end % W)  // the second vector of the last panel
    for (int64_t d = 0; d < size; ++d)
      for (int k = lanes; k < W; ++k) to[end / W * W * size + d * W + k] = 0;
}

}  // namespace FTLIB_SIMD
}  // namespace ft::inline FTLIB_ABI::detail
