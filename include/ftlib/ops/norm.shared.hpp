// ops/norm.shared.hpp: what a norm does to each row, as both devices take it.
#pragma once
#include <ftlib/tensor/view.hpp>  // View

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// A norm of rows s: s = x + y, or x where there is no y;
///   z = (s - mean) r with r = 1 / sqrt(variance + eps) where it is centred, else z = s r with r = 1 / sqrt(mean(s^2) +
///   eps);
///   n = z (w + offset) + b;
///   h = n (1 + scale) + shift.
/// An empty view leaves its factor or addend out.
template <Scalar T> struct Norm {
  bool centred;  // LayerNorm; else RMSNorm
  float eps, offset = 0;
  View<const T> w{}, b{};          // (C)
  View<const T> scale{}, shift{};  // (B, C)  both or neither; a row for each group of rows
  std::vector<int64_t> starts{};   // (B + 1) group g is rows [starts[g], starts[g + 1]); all are one without a scale
};

}  // namespace ft::inline FTLIB_ABI
