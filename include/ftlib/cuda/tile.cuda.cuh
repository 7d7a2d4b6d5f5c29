// cuda/tile.cuda.cuh: matrix products of a warp on tiles in shared memory: 16-bit floats on tensor cores, float and
// double by FMA. Both keep sums where tensor cores do, so that a kernel is written once.
#pragma once
#include <ftlib/cuda/reduce.cuda.cuh>  // lane, all_lanes
#include <ftlib/cuda/mma.cuda.cuh>  // mma, load_matrices

#if !FTLIB_CUDA_RUNTIME  // then cuda/kernel_words.cuda.cuh has it
#include <cuda_pipeline.h>  // __pipeline_memcpy_async
#endif

namespace ft::inline FTLIB_ABI::detail {

/// Elements from row to row of a tile of C columns: 16 bytes more than they need, so that 8 rows lie in different
/// banks.
template <class T, int C> inline constexpr int row_step = C + pack_size<T>;

// A warp's sums for 16 M rows and 8 N columns are A c[M][N][4]: c[m][n][e] of a lane is of row 16 m + fragment_row(e)
// and column 8 n + fragment_column(e).
__device__ inline int fragment_row(int e) { return lane() / 4 + e / 2 * 8; }
__device__ inline int fragment_column(int e) { return lane() % 4 * 2 + e % 2; }

/// c += a b^T. a (16 M, C) and b (8 N, C) are tiles. By tensor cores, b's rows are loaded once for M products.
template <int C, class T, class A, int M, int N>
__device__ void multiply_rows(A (&c)[M][N][4], const T* a, const T* b) {
  constexpr int step = row_step<T, C>;
  const int l = lane();
  if constexpr (TensorCore<T>) {
#pragma unroll C <= 64 ? 2 : 4
    for (int k = 0; k < C; k += 16) {
      uint32_t as[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) load_matrices<Order::rows>(as[m], a + (16 * m + l % 16) * step + k + l / 16 * 8);
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        uint32_t bs[4];
        load_matrices<Order::rows>(bs, b + (8 * n + l / 16 * 8 + l % 8) * step + k + l / 8 % 2 * 8);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          mma<T>(c[m][n], as[m], bs[0], bs[1]);
          mma<T>(c[m][n + 1], as[m], bs[2], bs[3]);
        }
      }
    }
  } else {
    constexpr int V = pack_size<T>;
#pragma unroll 2
    for (int k = 0; k < C; k += V) {
      Pack<T, V> as[M][2];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) as[m][h] = load<V>(a + (16 * m + fragment_row(2 * h)) * step + k);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const auto bs = load<V>(b + (8 * n + fragment_column(e)) * step + k);
#pragma unroll
          for (int m = 0; m < M; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
              for (int i = 0; i < V; ++i) c[m][n][2 * h + e] += as[m][h].v[i] * bs.v[i];
        }
    }
  }
}

/// c += p b. p (16 M, 8 K) are sums that the warp holds, rounded to T for tensor cores; b (8 K, C) is a tile, or C
/// columns of one of `wide`.
template <int C, int wide = C, class T, class A, int M, int K>
__device__ void multiply_sums(A (&c)[M][C / 8][4], const A (&p)[M][K][4], const T* b) {
  constexpr int step = row_step<T, wide>;
  const int l = lane();
  if constexpr (TensorCore<T>) {
#pragma unroll
    for (int k = 0; k < K; k += 2) {
      uint32_t as[M][4];  // as the warp holds sums, so it holds the left matrix of a product
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) as[m][i] = pair_of<T>(p[m][k + i / 2][i % 2 * 2], p[m][k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int n = 0; n < C / 8; n += 2) {
        uint32_t bs[4];
        load_matrices<Order::columns>(bs, b + (8 * k + l % 16) * step + 8 * n + l / 16 * 8);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          mma<T>(c[m][n], as[m], bs[0], bs[1]);
          mma<T>(c[m][n + 1], as[m], bs[2], bs[3]);
        }
      }
    }
  } else {
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int i = 0; i < 8; ++i) {  // column 8 k + i of p is with lane i / 2 of each group of four
        A ps[M][2];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int h = 0; h < 2; ++h) ps[m][h] = __shfl_sync(all_lanes, p[m][k][2 * h + i % 2], i / 2, 4);
#pragma unroll
        for (int n = 0; n < C / 8; ++n) {
          const auto bs = load<2>(b + (8 * k + i) * step + 8 * n + fragment_column(0));
#pragma unroll
          for (int m = 0; m < M; ++m)
#pragma unroll
            for (int e = 0; e < 4; ++e) c[m][n][e] += ps[m][e / 2] * bs.v[e % 2];
        }
      }
  }
}

/// to (rows, C), a tile, = rows first, first + 1, ... of an array, by all threads of the block. row(r) points to row r,
/// of hd elements; where it is null, and from hd on, come zeros. With packs, which wants 16-byte alignment, it is
/// copied while the kernel goes on: meet_rows() waits.
template <int rows, int threads, int C, class T, class Row>
__device__ void load_rows(T* to, const Row& row, int first, int hd, bool packs) {
  constexpr int V = pack_size<T>;
  for (int i = static_cast<int>(threadIdx.x); i < rows * (C / V); i += threads) {
    const int r = i / (C / V), c = i % (C / V) * V;
    const T* const from = row(first + r);
    T* const there = to + r * row_step<T, C> + c;
    if (packs && from && c < hd) {
      __pipeline_memcpy_async(there, from + c, 16);
    } else {
      Pack<T, V> values{};
      if (!packs && from)
        for (int k = 0; k < V; ++k)
          if (c + k < hd) values.v[k] = from[c + k];
      store(there, values);
    }
  }
}
/// All threads of the block are here, and what each has asked load_rows for has come.
__device__ inline void meet_rows() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
}

/// Rows first, first + 1, ... of an array = factor times c, by one warp, by way of the tile at `by`, whose rows no
/// other warp uses. Rows where row(r) is null are left out.
template <int C, class T, class A, int M, class Row>
__device__ void store_rows(const A (&c)[M][C / 8][4], const A (&factor)[M][2], T* by, const Row& row, int first, int hd,
                           bool packs) {
  constexpr int V = pack_size<T>, step = row_step<T, C>;
  __syncwarp();  // other lanes may read there still
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < C / 8; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        store(by + (16 * m + fragment_row(2 * h)) * step + 8 * n + fragment_column(0),
              Pack<T, 2>{{narrow<T>(factor[m][h] * c[m][n][2 * h]), narrow<T>(factor[m][h] * c[m][n][2 * h + 1])}});
  __syncwarp();
  for (int i = lane(); i < 16 * M * (C / V); i += 32) {
    const int r = i / (C / V), at = i % (C / V) * V;
    T* const to = row(first + r);
    if (!to || at >= hd) continue;
    const auto values = load<V>(by + r * step + at);
    if (packs) {
      Pack<T, V> out;
      for (int k = 0; k < V; ++k) out.v[k] = values.v[k];  // nvcc stores a pack that it only copies piece by piece
      store(to + at, out);
    } else {
      for (int k = 0; k < V; ++k)
        if (at + k < hd) to[at + k] = values.v[k];
    }
  }
}

}  // namespace ft::inline FTLIB_ABI::detail
