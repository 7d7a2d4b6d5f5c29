// ops/gemm_pack.cpu.hpp: how a part of a matrix product's operand is copied into the panels that the kernel reads:
// every transpose and every stored type ends here.
#pragma once
#include <ftlib/ops/gemm.shared.hpp>      // DenseOperand, StoredOperand
#include <ftlib/ops/gemm_unpack.cpu.hpp>  // RowReader

#include <algorithm>  // std::min

namespace ft::inline FTLIB_ABI {

namespace detail {
inline namespace FTLIB_SIMD {

// A panel is `width` rows (of A) or columns (of B) of a matrix, stored so that element i of step k is at k width + i.

/// A panel of lines that run along k: dst[k width + i] = src[min(i, used - 1) stride + k]. Repeating the last line in
/// the padding costs less than clearing it; what the kernel makes of it is thrown away. May write up to a vector's
/// lanes beyond the panel.
template <class T> void pack_lines(T* dst, int width, int used, int64_t steps, const T* src, int64_t stride) {
  using V = typename Simd<T>::Vec;
  constexpr int lanes = Simd<T>::lanes;
  int64_t done = 0;
  if (width < lanes || width % lanes == 0) {  // else the vectors of one step would overwrite one another's
    done = steps / lanes * lanes;
    for (int i = 0; i < width; i += lanes) {
      const T* line[lanes];
      for (int j = 0; j < lanes; ++j) line[j] = src + std::min(i + j, used - 1) * stride;
      for (int64_t k = 0; k < done; k += lanes) {
        V x[lanes];
        unroll<lanes>([&](auto j) __attribute__((always_inline)) { x[j] = load<V>(line[j] + k); });
        transpose<T>(x);
        unroll<lanes>([&](auto j) __attribute__((always_inline)) { store(dst + (k + j) * width + i, x[j]); });
      }
    }
  }
  for (int64_t k = done; k < steps; ++k)
    for (int i = 0; i < width; ++i) dst[k * width + i] = src[std::min(i, used - 1) * stride + k];
}

/// Panel p of `rows` rows cut into `panels` of nearly equal height begins here: no short last panel, whose kernel would
/// wait for its own additions.
inline int64_t panel_begin(int64_t rows, int64_t panels, int64_t p) { return rows * p / panels; }

/// Rows [row, row + rows) and columns [k, k + steps) of A as panels; dst holds rows steps + lanes elements.
template <class T>
void pack_a(T* dst, const DenseOperand<T>& a, int64_t row, int64_t rows, int64_t k, int64_t steps, int64_t panels) {
  const T* src = a.data + row * a.row_stride + k * a.col_stride;
  if (a.col_stride == 1) {
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t i = panel_begin(rows, panels, p);
      const auto height = static_cast<int>(panel_begin(rows, panels, p + 1) - i);
      pack_lines(dst + i * steps, height, height, steps, src + i * a.row_stride, a.row_stride);
    }
    return;
  }
  using V = typename Simd<T>::Vec;
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t s = 0; s < steps; ++s, src += a.col_stride) {  // along memory where row_stride is 1
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t i = panel_begin(rows, panels, p), height = panel_begin(rows, panels, p + 1) - i;
      T* to = dst + i * steps + s * height;
      const T* from = src + i * a.row_stride;
      // A whole vector may spill into the next step, which is written later, but not behind the last step.
      if (a.row_stride == 1 && height <= lanes && i + lanes <= rows && s + 1 < steps) {
        store(to, load<V>(from));
      } else {
        for (int64_t j = 0; j < height; ++j) to[j] = from[j * a.row_stride];
      }
    }
  }
}

/// Columns [col, col + cols) and rows [k, k + steps) of a dense B as panels of Tile<T>::cols.
template <class T> void pack_b(T* dst, const DenseOperand<T>& b, int64_t col, int64_t cols, int64_t k, int64_t steps) {
  constexpr int width = Tile<T>::cols;
  const T* src = b.data + k * b.row_stride + col * b.col_stride;
  if (b.row_stride == 1) {
    for (int64_t j = 0; j < cols; j += width)
      pack_lines(dst + j * steps, width, static_cast<int>(std::min<int64_t>(width, cols - j)), steps,
                 src + j * b.col_stride, b.col_stride);
    return;
  }
  for (int64_t s = 0; s < steps; ++s, src += b.row_stride) {
    for (int64_t j = 0; j < cols; j += width) {
      T* to = dst + j * steps + s * width;
      if (b.col_stride == 1 && j + width <= cols) {
        std::memcpy(to, src + j, width * sizeof(T));
      } else {
        for (int i = 0; i < width; ++i) to[i] = j + i < cols ? src[(j + i) * b.col_stride] : T{};
      }
    }
  }
}

/// The same of a stored weight, unpacked some elements of a row at a time into L1 and from there into the panels; col
/// is a multiple of chunk_size, and so is k where B = W^T.
template <class T> void pack_b(T* dst, const StoredOperand& b, int64_t col, int64_t cols, int64_t k, int64_t steps) {
  constexpr int width = Tile<T>::cols;
  constexpr int64_t segment = 4 * chunk_size;  // elements
  const RowReader<T> read(b.type);
  const int64_t row_bytes = b.row_bytes();
  if (b.transpose == Transpose::yes) {
    alignas(64) T lines[width * segment];
    for (int64_t j = 0; j < cols; j += width) {
      const auto used = static_cast<int>(std::min<int64_t>(width, cols - j));
      const std::byte* row = b.data + (col + j) * row_bytes;
      for (int64_t s = 0; s < steps; s += segment) {
        const int64_t count = std::min(segment, steps - s);
        for (int i = 0; i < used; ++i) read(row + i * row_bytes, k + s, count, lines + i * segment);
        pack_lines(dst + j * steps + s * width, width, used, count, lines, segment);
      }
    }
    return;
  }
  alignas(64) T line[segment] = {};  // zeros, then old values, where the last panel's columns are missing
  for (int64_t s = 0; s < steps; ++s) {
    const std::byte* row = b.data + (k + s) * row_bytes;
    for (int64_t j = 0; j < cols; j += segment) {
      const int64_t count = std::min(segment, cols - j);
      read(row, col + j, count, line);
      T* to = dst + j * steps + s * width;
      for (int64_t i = 0; i < count; i += width, to += width * steps) std::memcpy(to, line + i, width * sizeof(T));
    }
  }
}

}  // namespace FTLIB_SIMD
}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
