// ops/conv2d.shared.hpp: which places of a picture a convolution's window covers, as every device takes it.
#pragma once
#include <cstdint>  // std::int64_t

namespace ft::inline FTLIB_ABI {

/// Places (b, y, x) of B pictures (rows, cols), each with the kh x kw places of a picture (H, W, C) that its window
/// covers: tap (i, j) is row (y step + sign i + top) / divisor and column (x step + sign j + left) / divisor, where
/// these are whole and inside, and zeros elsewhere.
struct Patches {
  std::int64_t B, H, W, C;
  std::int64_t rows, cols;
  std::int64_t kh, kw;
  std::int64_t step, sign, divisor, top, left;

  std::int64_t places() const { return B * rows * cols; }
  std::int64_t width() const { return kh * kw * C; }
  /// Whether a place's patch is the place itself.
  bool alone() const {
    return kh == 1 && kw == 1 && step == 1 && divisor == 1 && top == 0 && left == 0 && rows == H && cols == W;
  }
  /// The row or column that a tap reads, of `size`; -1: none.
  constexpr std::int64_t source(std::int64_t at, std::int64_t tap, std::int64_t first, std::int64_t size) const {
    const std::int64_t n = at * step + sign * tap + first;
    return n < 0 || n % divisor != 0 || n / divisor >= size ? -1 : n / divisor;
  }
};

}  // namespace ft::inline FTLIB_ABI
