// ops/gemm.cpu.hpp: the matrix product on the CPU: blocks for the caches, panels for the kernel, pieces for the
// threads. After Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008.
#pragma once
#include <ftlib/ops/gemm.shared.hpp>  // check_gemm
#include <ftlib/ops/gemv.cpu.hpp>     // gemv, and what it is made of
#if FTLIB_WITH_BLAS
#include <ftlib/ops/blas.cpu.hpp>  // blas_part
#endif

#include <algorithm>  // std::min, std::max
#include <atomic>     // std::atomic
#include <cstdint>    // std::uintptr_t
#include <thread>     // std::this_thread::yield
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {
namespace detail {
inline namespace FTLIB_SIMD {

/// Returns when `done` has reached `all`: what is missing is in other threads' hands.
inline void wait_for(const std::atomic<int>& done, int all) {
  for (int spins = 0; done.load(std::memory_order_acquire) < all;) {
    if (++spins > 4000) std::this_thread::yield();  // the other thread may have lost its core
#if defined(__x86_64__) || defined(__i386__)
    else __builtin_ia32_pause();
#endif
  }
}

/// How a product is cut. A panel of B (steps x Tile::cols) stays in L1 while a block of A (rows x steps) streams from
/// L2; what is left of L1 holds A's panel and C's tile. Sizes measured on Zen 3 (32 KiB, 512 KiB). Several threads get
/// smaller blocks of A, so that there are two for each, but none so small that B's panels are read for little.
template <class T> struct Blocking {
  static constexpr int64_t panel_bytes = 16 << 10, a_bytes = 128 << 10, b_bytes = 3 << 20, least_rows = 48;
  int64_t steps, rows, cols;

  Blocking(int64_t M, int64_t N, int64_t K, int threads) {
    steps = even(K, panel_bytes / (Tile<T>::cols * int64_t{sizeof(T)}), chunk_size);
    const int64_t most = a_bytes / (steps * int64_t{sizeof(T)});
    rows = even(M, threads == 1 ? most : std::min(most, std::max(least_rows, M / (2 * threads))), 1);
    cols = even(N, b_bytes / (steps * int64_t{sizeof(T)}), chunk_size);
  }

 private:
  /// The size of nearly equal parts of n, each a multiple of `unit` and at most about `most`.
  static int64_t even(int64_t n, int64_t most, int64_t unit) {
    const int64_t parts = std::max<int64_t>(1, (n + most - 1) / most);
    return std::max(unit, ((n + parts - 1) / parts + unit - 1) / unit * unit);
  }
};

/// A block of A, packed (then `a` is its first panel) or in place, times a packed block of B, tile by tile, into c.
template <Rows where, class T>
void multiply_block(int64_t rows, int64_t cols, int64_t steps, int64_t panels, const DenseOperand<T>& a, const T* b,
                    T* c, int64_t c_row_stride, const Epilogue<T>& epilogue) {
  constexpr int width = Tile<T>::cols;
  for (int64_t j = 0; j < cols; j += width) {
    const bool whole = j + width <= cols;
    const Epilogue<T> in_place{epilogue.write, epilogue.alpha, epilogue.bias ? epilogue.bias + j : nullptr};
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t i = panel_begin(rows, panels, p), height = panel_begin(rows, panels, p + 1) - i;
      const TileKernel<T> kernel = tile_kernels<T, where>[static_cast<std::size_t>(height - 1)];
      const T* ai = a.data + i * (where == Rows::packed ? steps : a.row_stride);
      T* ci = c + i * c_row_stride + j;
      if (whole) {
        kernel(steps, ai, a.row_stride, a.col_stride, b + j * steps, ci, c_row_stride, in_place);
        continue;
      }
      T tile[Tile<T>::rows * width];
      kernel(steps, ai, a.row_stride, a.col_stride, b + j * steps, tile, width,
             {Write::assign, epilogue.alpha, nullptr});
      for (int64_t r = 0; r < height; ++r, ci += c_row_stride)
        for (int64_t s = 0; s < cols - j; ++s)
          ci[s] = (epilogue.write == Write::add ? ci[s] : T{}) + tile[r * width + s] +
                  (epilogue.bias ? epilogue.bias[j + s] : T{});
    }
  }
}

inline constexpr int64_t small_product = 1 << 18;  // multiplications; below it a second thread costs more than it saves

template <class T, class B>
void gemm_blocked(Context<Cpu>& ctx, Write write, int64_t M, int64_t N, int64_t K, T* c, int64_t c_row_stride,
                  const DenseOperand<T>& a, const B& b, T alpha, const T* bias) {
  const int threads = M * N * std::max<int64_t>(K, 1) < small_product ? 1 : ctx.threads();
  const Blocking<T> block(M, N, K, threads);
  const auto parts_of = [](int64_t n, int64_t size) { return (n + size - 1) / size; };
  const bool in_place = N <= Tile<T>::cols;  // A is read once: packing it would cost more than the product (LoRA's)
  // A stage is a block of B: some columns, some steps; at K = 0 one, because bias and assignment are still due. First
  // its columns are packed, in `packs` pieces, then blocks of A's rows are multiplied, `across` pieces side by side.
  const int64_t depth = std::max<int64_t>(1, parts_of(K, block.steps)), stages = depth * parts_of(N, block.cols);
  const int64_t chunks = parts_of(std::min(N, block.cols), chunk_size), down = parts_of(M, block.rows);
  const int64_t packs = threads == 1 ? 1 : std::min<int64_t>(chunks, 2 * threads);
  const int64_t across = threads == 1 ? 1 : std::min(chunks, parts_of(2 * threads, down));
  const auto products = static_cast<int>(down * across);
  // Each thread's block of A, and two of B: one is packed while a slower thread still reads the other.
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t a_size = parts_of(block.rows * block.steps + Simd<T>::lanes, line) * line;
  const int64_t b_size = block.steps * block.cols;
  const auto memory = ctx.allocate(static_cast<std::size_t>(threads * a_size + 2 * b_size) * sizeof(T));
  T *const blocks_of_b = static_cast<T*>(memory.get()), *const blocks_of_a = blocks_of_b + 2 * b_size;

  // WorkPieces are taken in order, and each waits for earlier ones alone: so whoever has those is at work on them.
  std::vector<std::atomic<int>> packed(static_cast<std::size_t>(stages)), multiplied(static_cast<std::size_t>(stages));
  WorkPieces pieces(stages * (packs + products));
  const auto work = [&](int thread) {
    T* const packed_a = blocks_of_a + thread * a_size;
    for (int64_t piece = pieces.take(); piece >= 0; piece = pieces.take()) {
      const int64_t at = piece / (packs + products), part = piece % (packs + products);
      const auto stage = static_cast<std::size_t>(at);
      const int64_t j = at / depth * block.cols, k = at % depth * block.steps;
      const int64_t cols = std::min(block.cols, N - j), steps = std::min(block.steps, K - k);
      T* const b_block = blocks_of_b + at % 2 * b_size;
      const auto column = [&](int64_t i, int64_t of) {
        return std::min(cols, parts_of(cols, chunk_size) * i / of * chunk_size);
      };
      if (part < packs) {
        if (stage >= 2) wait_for(multiplied[stage - 2], products);
        const int64_t first = column(part, packs), last = column(part + 1, packs);
        if (first < last) pack_b(b_block + first * steps, b, j + first, last - first, k, steps);
        packed[stage].fetch_add(1, std::memory_order_release);
        continue;
      }
      wait_for(packed[stage], static_cast<int>(packs));
      if (k > 0) wait_for(multiplied[stage - 1], products);
      const int64_t i = (part - packs) / across * block.rows, rows = std::min(block.rows, M - i);
      const int64_t first = column((part - packs) % across, across), last = column((part - packs) % across + 1, across);
      const int64_t panels = parts_of(rows, Tile<T>::rows);
      T* const to = c + i * c_row_stride + j + first;
      const Epilogue<T> epilogue{k == 0 ? write : Write::add, alpha, bias && k == 0 ? bias + j + first : nullptr};
      if (in_place) {
        const DenseOperand<T> rows_of_a{a.data + i * a.row_stride + k * a.col_stride, a.row_stride, a.col_stride};
        multiply_block<Rows::in_place>(rows, last - first, steps, panels, rows_of_a, b_block + first * steps, to,
                                       c_row_stride, epilogue);
      } else if (first < last) {
        pack_a(packed_a, a, i, rows, k, steps, panels);
        multiply_block<Rows::packed>(rows, last - first, steps, panels, DenseOperand<T>{packed_a, 0, 0},
                                     b_block + first * steps, to, c_row_stride, epilogue);
      }
      multiplied[stage].fetch_add(1, std::memory_order_release);
    }
  };
  if (threads == 1) work(0);
  else ctx.pool().run(work);
}

#if FTLIB_WITH_BLAS
/// A part of C for one thread.
struct GemmShare {
  int64_t row, rows, col, cols;
};

/// A grid of parts over C: rows first, columns where there are too few rows.
template <class T> GemmShare gemm_share(int thread, int threads, int64_t M, int64_t N) {
  int down = threads;
  while (down > 1 && (threads % down != 0 || M / down < 2 * Tile<T>::rows)) --down;
  const int across = threads / down, member = thread % down, group = thread / down;
  const int64_t chunks = (N + chunk_size - 1) / chunk_size;
  const int64_t row = M * member / down, row_end = M * (member + 1) / down;
  const int64_t col = chunks * group / across * chunk_size,
                col_end = std::min(N, chunks * (group + 1) / across * chunk_size);
  return {row, row_end - row, col, col_end - col};
}

/// The same by a BLAS, a part of C at a time for each thread. False where operands do not fit one.
template <class T>
bool gemm_blas(Context<Cpu>& ctx, Write write, int64_t M, int64_t N, int64_t K, T* c, int64_t c_row_stride,
               const DenseOperand<T>& a, const DenseOperand<T>& b, T alpha, const T* bias) {
  if (!fits_blas(a, M, K) || !fits_blas(b, K, N) || c_row_stride > std::numeric_limits<int>::max()) return false;
  const int parts = M * N * std::max<int64_t>(K, 1) < small_product ? 1 : ctx.threads();
  WorkPieces pieces(parts);
  const auto work = [&](int) {
    one_blas_thread();
    for (int64_t part = pieces.take(); part >= 0; part = pieces.take()) {
      const GemmShare s = gemm_share<T>(static_cast<int>(part), parts, M, N);
      if (s.rows == 0 || s.cols == 0) continue;
      blas_part(write, s.rows, s.cols, K, c + s.row * c_row_stride + s.col, c_row_stride,
                {a.data + s.row * a.row_stride, a.row_stride, a.col_stride},
                {b.data + s.col * b.col_stride, b.row_stride, b.col_stride}, alpha, bias ? bias + s.col : nullptr);
    }
  };
  if (parts == 1) work(0);
  else ctx.pool().run(work);
  return true;
}
#endif

template <class T> bool has_rows(const DenseOperand<T>& b) { return b.row_stride == 1; }
template <class T> WeightRows rows_of(const DenseOperand<T>& b) {
  return {dtype_of<T>, reinterpret_cast<const std::byte*>(b.data), b.col_stride * int64_t{sizeof(T)}};
}
inline bool has_rows(const StoredOperand& b) { return b.transpose == Transpose::yes; }
inline WeightRows rows_of(const StoredOperand& b) { return {b.type, b.data, b.row_bytes()}; }

}  // namespace FTLIB_SIMD
}  // namespace detail

/// C = or += alpha A B + bias, in float or double; B is a DenseOperand<T> or a StoredOperand. Only the operands' own
/// elements and blocks are read, at any alignment. The order of each sum depends on the sizes and the number of threads
/// alone, so the same call gives the same bits. C must not overlap A or B. Throws Error where a stored B does not fit.
template <Scalar T, class B>
requires std::same_as<T, float> || std::same_as<T, double>
void gemm(Context<Cpu>& ctx, Write write, int64_t M, int64_t N, int64_t K,
          T* c,                       // (M, N)  rows c_row_stride apart, columns adjacent
          int64_t c_row_stride,       //
          const DenseOperand<T>& a,   // (M, K)
          const B& b,                 // (K, N)
          T alpha = 1,                //
          const T* bias = nullptr) {  // (N)     added to each row, or null
  detail::check_gemm(M, N, K, b);
  if (M == 0 || N == 0) return;
  if constexpr (std::same_as<B, StoredOperand>)  // what needs no unpacking is packed from where it lies
    if (b.type == dtype_of<T> && reinterpret_cast<std::uintptr_t>(b.data) % alignof(T) == 0) {
      const bool yes = b.transpose == Transpose::yes;
      const DenseOperand<T> dense{reinterpret_cast<const T*>(b.data), yes ? 1 : b.cols, yes ? b.cols : 1};
      return gemm(ctx, write, M, N, K, c, c_row_stride, a, dense, alpha, bias);
    }
  if (M <= detail::gemv_max_rows && detail::has_rows(b))
    return detail::gemv(ctx, write, M, N, K, c, c_row_stride, a, detail::rows_of(b), alpha, bias);
#if FTLIB_WITH_BLAS
  if constexpr (std::same_as<B, DenseOperand<T>>)
    if (detail::gemm_blas(ctx, write, M, N, K, c, c_row_stride, a, b, alpha, bias)) return;
#endif
  detail::gemm_blocked(ctx, write, M, N, K, c, c_row_stride, a, b, alpha, bias);
}

}  // namespace ft::inline FTLIB_ABI
