// ops/gemv.cpu.hpp: the product of a few rows with a weight that is read once: decoding a token or a few. The weight is
// unpacked in registers, so the time is that of streaming its stored bytes.
#pragma once
#include <ftlib/ops/gemm_pack.cpu.hpp>   // StoredOperand, DenseOperand, unpack
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>

namespace ft::inline FTLIB_ABI {
namespace detail {
inline namespace FTLIB_SIMD {

/// The rows of a weight as they lie in memory, each contiguous; B = W^T.
struct WeightRows {
  DType type;
  const std::byte* data;
  int64_t row_bytes;
};

/// One row of x, zero-padded to whole chunks, times one row of W, unpacked in registers.
template <DType D> [[gnu::noinline]] float dot_row(const std::byte* w, const float* x, int64_t K) {
  using V = Simd<float>::Vec;
  V sum[Chunk::vectors] = {};
  const auto add = [&](const Chunk& chunk, const float* xk) __attribute__((always_inline)) {
    unroll<Chunk::vectors>([&](auto i) __attribute__((always_inline)) {
      sum[i] += chunk.v[i] * load<V>(xk + i * Simd<float>::lanes);
    });
  };
  Chunk chunk;
  const int64_t whole = K / chunk_size;
  for (int64_t i = 0; i < whole; ++i) {
    unpack<D>(w, i, chunk);
    add(chunk, x + i * chunk_size);
  }
  if (info(D).block == 1 && K % chunk_size != 0) {
    float values[chunk_size] = {};
    dequantise_row(D, w, whole * chunk_size, K % chunk_size, values);
    std::memcpy(chunk.v, values, sizeof values);
    add(chunk, x + whole * chunk_size);
  }
  for (int i = 1; i < Chunk::vectors; ++i) sum[0] += sum[i];
  return sum_lanes<float>(sum[0]);
}

/// sums[m] = row m of x times w, for M rows that share each load of w; both zero-padded to whole vectors.
template <int M, class T>
[[gnu::noinline]] void dot_rows(const T* w, const T* x, int64_t x_stride, int64_t K, T* sums) {
  using V = typename Simd<T>::Vec;
  constexpr int lanes = Simd<T>::lanes, chains = M >= 4 ? 1 : 4 / M;  // additions in flight hide their latency
  V sum[M][chains] = {};
  for (int64_t k = 0; k < K; k += lanes * chains)
    unroll<chains>([&](auto i) __attribute__((always_inline)) {
      const V wk = load<V>(w + k + i * lanes);
      unroll<M>([&](auto m)
                    __attribute__((always_inline)) { sum[m][i] += wk * load<V>(x + m * x_stride + k + i * lanes); });
    });
  for (int m = 0; m < M; ++m) {
    for (int i = 1; i < chains; ++i) sum[m][0] += sum[m][i];
    sums[m] = sum_lanes<T>(sum[m][0]);
  }
}

inline constexpr int gemv_max_rows = 8;

/// C = or += alpha A W^T + bias for M <= gemv_max_rows; threads share W's rows.
template <class T>
void gemv(Context<Cpu>& ctx, Write write, int64_t M, int64_t N, int64_t K, T* c, int64_t c_row_stride,
          const DenseOperand<T>& a, const WeightRows& w, T alpha, const T* bias) {
  const int64_t padded_M = M <= 2 ? M : M <= 4 ? 4 : gemv_max_rows;
  const int64_t padded_K = (K + chunk_size - 1) / chunk_size * chunk_size;
  const auto memory = ctx.allocate(static_cast<std::size_t>(padded_M * padded_K) * sizeof(T));
  T* const x = static_cast<T*>(memory.get());
  std::fill_n(x, padded_M * padded_K, T{});
  for (int64_t m = 0; m < M; ++m)
    for (int64_t k = 0; k < K; ++k) x[m * padded_K + k] = a.data[m * a.row_stride + k * a.col_stride];

  const auto finish = [&](int64_t n, const T* sums) {
    for (int64_t m = 0; m < M; ++m) {
      T* to = c + m * c_row_stride + n;
      *to = (write == Write::add ? *to : T{}) + alpha * sums[m] + (bias ? bias[n] : T{});
    }
  };
  const int64_t grain = 1 + (int64_t{1} << 16) / (padded_K + 1);  // what a second thread is worth waking for
  if constexpr (std::same_as<T, float>) {
    if (M == 1) {
      const auto dot = with_dtype(w.type, [&]<DType D>() { return &dot_row<D>; });
      parallel_for(ctx.pool(), N, grain, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          const float sum = dot(w.data + n * w.row_bytes, x, K);
          finish(n, &sum);
        }
      });
      return;
    }
  }
  const RowReader<T> read(w.type);
  const auto dot = padded_M == 1   ? &dot_rows<1, T>
                   : padded_M == 2 ? &dot_rows<2, T>
                   : padded_M == 4 ? &dot_rows<4, T>
                                   : &dot_rows<gemv_max_rows, T>;
  parallel_for(ctx.pool(), N, grain, [&](int64_t begin, int64_t end) {
    const auto row_memory = ctx.allocate(static_cast<std::size_t>(padded_K) * sizeof(T));
    T* const row = static_cast<T*>(row_memory.get());
    std::fill_n(row, padded_K, T{});
    T sums[gemv_max_rows];
    for (int64_t n = begin; n < end; ++n) {
      read(w.data + n * w.row_bytes, 0, K, row);
      dot(row, x, padded_K, padded_K, sums);
      finish(n, sums);
    }
  });
}

}  // namespace FTLIB_SIMD
}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
