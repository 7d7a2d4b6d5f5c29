// ops/heads.hpp: how ops on (tokens, heads, head size) read their arguments: rows may have gaps, so that slices of a
// fused projection need no copy.
#pragma once
#include <ftlib/tensor/copy.hpp>  // contiguous

namespace ft::inline FTLIB_ABI::detail {

/// x (N, H, hd) itself where the last two axes are dense, whatever the stride of the first; else a contiguous copy.
template <Element T, Device D> Tensor<T, D> dense_heads(Context<D>& ctx, const Tensor<T, D>& x) {
  const auto dense = [&](int axis, int64_t step) { return x.size(axis) == 1 || x.strides()[axis] == step; };
  return dense(2, 1) && dense(1, x.size(2)) ? x : contiguous(ctx, x);
}

}  // namespace ft::inline FTLIB_ABI::detail
