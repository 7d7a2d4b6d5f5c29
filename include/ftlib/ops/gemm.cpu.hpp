// ops/gemm.cpu.hpp: the matrix product on the CPU: blocks for the caches, panels for the kernel, shares for the
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

/// Holds `count` threads until all have come; may be used again at once.
class Barrier {
 public:
  void wait(int count) {
    if (count == 1) return;
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round;) {
      if (++spins > 4000) std::this_thread::yield();  // the other thread may have lost its core
#if defined(__x86_64__) || defined(__i386__)
      else __builtin_ia32_pause();
#endif
    }
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

/// How a product is cut. A panel of B (steps x Tile::cols) stays in L1 while a block of A (rows x steps) streams from
/// L2; what is left of L1 holds A's panel and C's tile. Sizes measured on Zen 3 (32 KiB, 512 KiB).
template <class T> struct Blocking {
  static constexpr int64_t panel_bytes = 16 << 10, a_bytes = 128 << 10, b_bytes = 3 << 20;
  int64_t steps, rows, cols;

  Blocking(int64_t M, int64_t N, int64_t K) {
    steps = even(K, panel_bytes / (Tile<T>::cols * int64_t{sizeof(T)}), chunk_size);
    rows = even(M, a_bytes / (steps * int64_t{sizeof(T)}), 1);
    cols = even(N, b_bytes / (steps * int64_t{sizeof(T)}), chunk_size);
  }

 private:
  /// The size of nearly equal parts of n, each a multiple of `unit` and at most about `most`.
  static int64_t even(int64_t n, int64_t most, int64_t unit) {
    const int64_t parts = std::max<int64_t>(1, (n + most - 1) / most);
    return std::max(unit, ((n + parts - 1) / parts + unit - 1) / unit * unit);
  }
};

/// What one thread has to do: its rows and columns of C, and the group that shares its columns (and packs B together).
struct GemmShare {
  int64_t row, rows, col, cols;
  int group, member, members;
};

/// A grid of threads over C: rows first, because threads that share columns share the packed B; columns where there
/// are too few rows.
template <class T> GemmShare gemm_share(int thread, int threads, int64_t M, int64_t N) {
  int down = threads;
  while (down > 1 && (threads % down != 0 || M / down < 2 * Tile<T>::rows)) --down;
  const int across = threads / down, member = thread % down, group = thread / down;
  const int64_t chunks = (N + chunk_size - 1) / chunk_size;
  const int64_t row = M * member / down, row_end = M * (member + 1) / down;
  const int64_t col = chunks * group / across * chunk_size,
                col_end = std::min(N, chunks * (group + 1) / across * chunk_size);
  return {row, row_end - row, col, col_end - col, group, member, down};
}

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
  const int most = M * N * std::max<int64_t>(K, 1) < small_product ? 1 : ctx.threads();
  const Blocking<T> block(M, N, K);
  const bool in_place = N <= Tile<T>::cols;  // A is read once: packing it would cost more than the product (LoRA's)
  // Each thread's block of A, and two of B for each group: one is packed while a slower thread still reads the other.
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t a_size = (block.rows * block.steps + Simd<T>::lanes + line - 1) / line * line;
  const int64_t b_size = block.steps * block.cols;
  const auto memory = ctx.allocate(static_cast<std::size_t>(most * (a_size + 2 * b_size)) * sizeof(T));
  T* const packed = static_cast<T*>(memory.get());
  std::vector<Barrier> barriers(static_cast<std::size_t>(most));

  const auto work = [&](int thread, int threads) {
    const GemmShare share = gemm_share<T>(thread, threads, M, N);
    T* const packed_a = packed + thread * a_size;
    T* const packed_b = packed + most * a_size + share.group * 2 * b_size;
    int64_t turn = 0;
    for (int64_t j = 0; j < share.cols; j += block.cols) {
      const int64_t cols = std::min(block.cols, share.cols - j), chunks = (cols + chunk_size - 1) / chunk_size;
      const int64_t first = chunks * share.member / share.members * chunk_size;
      const int64_t last = std::min(cols, chunks * (share.member + 1) / share.members * chunk_size);
      int64_t k = 0;
      do {  // once for K = 0 too: bias and assignment are still due
        const int64_t steps = std::min(block.steps, K - k);
        T* const b_block = packed_b + turn++ % 2 * b_size;
        pack_b(b_block + first * steps, b, share.col + j + first, last - first, k, steps);
        barriers[static_cast<std::size_t>(share.group)].wait(share.members);
        const T* const bias_j = bias && k == 0 ? bias + share.col + j : nullptr;
        const Epilogue<T> epilogue{k == 0 ? write : Write::add, alpha, bias_j};
        for (int64_t i = 0; i < share.rows; i += block.rows) {
          const int64_t rows = std::min(block.rows, share.rows - i);
          const int64_t panels = (rows + Tile<T>::rows - 1) / Tile<T>::rows;
          T* const to = c + (share.row + i) * c_row_stride + share.col + j;
          if (in_place) {
            const T* from = a.data + (share.row + i) * a.row_stride + k * a.col_stride;
            multiply_block<Rows::in_place>(rows, cols, steps, panels, {from, a.row_stride, a.col_stride}, b_block, to,
                                           c_row_stride, epilogue);
          } else {
            pack_a(packed_a, a, share.row + i, rows, k, steps, panels);
            multiply_block<Rows::packed>(rows, cols, steps, panels, DenseOperand<T>{packed_a, 0, 0}, b_block, to,
                                         c_row_stride, epilogue);
          }
        }
        k += steps;
      } while (k < K);
    }
  };
  if (most == 1) work(0, 1);
  else ctx.pool().run(work);
}

#if FTLIB_WITH_BLAS
/// The same by a BLAS, each thread its rows and columns of C. False where operands do not fit one.
template <class T>
bool gemm_blas(Context<Cpu>& ctx, Write write, int64_t M, int64_t N, int64_t K, T* c, int64_t c_row_stride,
               const DenseOperand<T>& a, const DenseOperand<T>& b, T alpha, const T* bias) {
  if (!fits_blas(a, M, K) || !fits_blas(b, K, N) || c_row_stride > std::numeric_limits<int>::max()) return false;
  const auto work = [&](int thread, int threads) {
    const GemmShare s = gemm_share<T>(thread, threads, M, N);
    if (s.rows == 0 || s.cols == 0) return;
    one_blas_thread();
    blas_part(write, s.rows, s.cols, K, c + s.row * c_row_stride + s.col, c_row_stride,
              {a.data + s.row * a.row_stride, a.row_stride, a.col_stride},
              {b.data + s.col * b.col_stride, b.row_stride, b.col_stride}, alpha, bias ? bias + s.col : nullptr);
  };
  if (M * N * std::max<int64_t>(K, 1) < small_product) work(0, 1);
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
