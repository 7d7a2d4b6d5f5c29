// ops/tile.cpu.hpp: small matrix products from L1 by Eigen's packets, for ops that multiply tiles on their way
// (attention). The weights' products are in ops/gemm.
#pragma once
#include <ftlib/tensor/view.hpp>  // Write

#include <array>        // std::array
#include <Eigen/Core>   // packets
#include <type_traits>  // std::integral_constant
#include <utility>      // std::index_sequence

namespace ft::inline FTLIB_ABI::detail {

template <Scalar T> using Packet = typename Eigen::internal::packet_traits<T>::type;
template <Scalar T> inline constexpr int packet_size = Eigen::internal::unpacket_traits<Packet<T>>::size;
/// A tile is at most 6 rows of 2 packets: 12 sums, 2 packets of b and 1 of a fill AVX2's 16 registers.
inline constexpr int tile_rows = 6;
template <Scalar T> inline constexpr int tile_cols = 2 * packet_size<T>;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/// c (M, W) = or += a b over `depth`, W = tile_cols<T>: a's element (i, d) is a[i][d * a_step], b's row d starts at
/// b + d * b_step.
template <int M, Scalar T>
void tile_product(T* c, int64_t c_step, const std::array<const T*, tile_rows>& a, int64_t a_step, const T* b,
                  int64_t b_step, int64_t depth, Write write) {
  using namespace Eigen::internal;
  constexpr int P = packet_size<T>;
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    const T* const rows[] = {a[I]...};
    Packet<T> left[M], right[M];  // plain arrays: as a template's argument a packet loses its attributes
    if (write == Write::add)
      ((left[I] = ploadu<Packet<T>>(c + static_cast<int64_t>(I) * c_step),
        right[I] = ploadu<Packet<T>>(c + static_cast<int64_t>(I) * c_step + P)),
       ...);
    else ((left[I] = right[I] = pset1<Packet<T>>(T(0))), ...);
    for (int64_t d = 0, at = 0; d < depth; ++d, at += a_step, b += b_step) {
      const Packet<T> b0 = ploadu<Packet<T>>(b), b1 = ploadu<Packet<T>>(b + P);
      (
          [&] {
            const Packet<T> ai = pset1<Packet<T>>(rows[I][at]);
            left[I] = pmadd(ai, b0, left[I]);
            right[I] = pmadd(ai, b1, right[I]);
          }(),
          ...);
    }
    ((pstoreu(c + static_cast<int64_t>(I) * c_step, left[I]),
      pstoreu(c + static_cast<int64_t>(I) * c_step + P, right[I])),
     ...);
  }
  (std::make_index_sequence<M>{});
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

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // Eigen's PacketBlock of a vector type
/// Panels of x transposed (size, n), W columns each: to[p][d][w] = x[p W + w][d], zeros past the last row of x. Takes
/// round_up(n, W) * size elements.
template <Scalar T, class Row> void pack_transposed(T* to, Row row, int64_t n, int64_t size) {
  using namespace Eigen::internal;
  constexpr int W = tile_cols<T>, P = packet_size<T>;
  for (int64_t i = 0; i < n; i += P) {
    T* at = to + i / W * W * size + i % W;
    int64_t d = 0;
    if (i + P <= n)
      for (; d + P <= size; d += P) {
        PacketBlock<Packet<T>, P> block;
        for (int k = 0; k < P; ++k) block.packet[k] = ploadu<Packet<T>>(row(i + k) + d);
        ptranspose(block);
        for (int k = 0; k < P; ++k) pstoreu(at + (d + k) * W, block.packet[k]);
      }
    for (; d < size; ++d)
      for (int k = 0; k < P; ++k) at[d * W + k] = i + k < n ? row(i + k)[d] : T(0);
  }
  if (const int64_t end = round_up(n, P); end % W)  // the second packet of the last panel
    for (int64_t d = 0; d < size; ++d)
      for (int k = P; k < W; ++k) to[end / W * W * size + d * W + k] = 0;
}

#pragma GCC diagnostic pop

}  // namespace ft::inline FTLIB_ABI::detail
