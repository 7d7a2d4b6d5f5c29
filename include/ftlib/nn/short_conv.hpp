// nn/short_conv.hpp: ShortConv, a gated short convolution in place of attention; and short convolutions with a cache.
#pragma once
#include <ftlib/nn/kv_cache.hpp>        // KvCache, Placement
#include <ftlib/nn/linear.hpp>          // Linear
#include <ftlib/ops/causal_conv.hpp>    // causal_conv
#include <ftlib/ops/cross_entropy.hpp>  // scatter_rows
#include <ftlib/ops/elementwise.hpp>    // mul
#include <ftlib/ops/rows.hpp>           // take_rows
#include <ftlib/ops/shape.hpp>          // slice

#include <algorithm>   // std::min
#include <functional>  // std::function
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// causal_conv of x (N, C) by w (C, 1, L) over packed sequences. With a cache each sequence goes on from its window,
/// the L - 1 rows of x before it, and leaves its last ones there.
template <Scalar T, Device D>
Tensor<T, D> cached_conv(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, const Placement<D>& at,
                         typename KvCache<T, D>::Layer* cache) {
  if (!cache) return causal_conv(ctx, x, in_use(ctx, w), at.segments);
  no_backward(ctx, "a convolution with a cache", {x});
  const int64_t window = w.shape()[2] - 1, windows = window ? cache->window.size(0) : 0;
  std::vector<Segment> segments;                       // of what is seen: rows of windows, and behind them x's
  std::vector<int32_t> seen_from, left_from, left_to;  // the last ones seen become the windows
  for (std::size_t i = 0; i < at.segments.size(); ++i) {
    const Segment& s = at.segments[i];
    const int64_t n = s.q_end - s.q_begin, end = (at.slots[i] + 1) * window;
    const int64_t before = std::min(window, s.k_end - s.k_begin - n), left = std::min(window, before + n);
    const auto first = static_cast<int64_t>(seen_from.size());
    for (int64_t j = 0; j < before; ++j) seen_from.push_back(static_cast<int32_t>(end - before + j));
    for (int64_t j = 0; j < n; ++j) seen_from.push_back(static_cast<int32_t>(windows + s.q_begin + j));
    segments.push_back({s.q_begin, s.q_end, first, first + before + n});
    for (int64_t j = 0; j < left; ++j) {
      left_from.push_back(static_cast<int32_t>(first + before + n - left + j));
      left_to.push_back(static_cast<int32_t>(end - left + j));
    }
  }
  const auto seen = window ? take_rows(ctx, std::vector<Tensor<T, D>>{cache->window, x}, seen_from) : x;
  if (window) {
    const auto left = take_rows(ctx, seen, left_from);
    scatter_rows(ctx, View<T>(cache->window.data(), cache->window.shape()), left.view(),
                 Tensor<int32_t, D>(ctx, {left.size(0)}, left_to).view());
  }
  return causal_conv(ctx, seen, in_use(ctx, w), segments);
}

/// [b | c | z] = in(x), y = out(c conv(b z)), over packed sequences: (N, C) -> (N, C). LFM2; transformers' models/lfm2.
template <Scalar T, Device D> struct ShortConv {
  Linear<T, D> in_proj = {}, out_proj = {};  // (3 C, C), (C, C)
  Parameter<T, D> kernel = {};               // (C, 1, L)

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, const Placement<D>& at,
                          typename KvCache<T, D>::Layer* cache) {
    const int64_t C = x.cols();
    const auto all = in_proj(ctx, x);
    const auto seen = mul(ctx, slice(ctx, all, 1, 0, C), slice(ctx, all, 1, 2 * C, 3 * C));  // (N, C)
    const auto mixed = cached_conv(ctx, seen, kernel, at, cache);
    return out_proj(ctx, mul(ctx, slice(ctx, all, 1, C, 2 * C), mixed));
  }
  KvShape kept() const { return {.window = kernel.shape()[2] - 1, .width = kernel.shape()[0]}; }
  explicit operator bool() const { return static_cast<bool>(kernel); }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    in_proj.visit(f);
    if (kernel) f(kernel);
    out_proj.visit(f);
  }
};

}  // namespace ft::inline FTLIB_ABI
