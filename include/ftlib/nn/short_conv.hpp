// nn/short_conv.hpp: ShortConv, a gated short convolution in place of attention.
#pragma once
#include <ftlib/nn/kv_cache.hpp>        // KvCache, Placement
#include <ftlib/nn/linear.hpp>          // Linear
#include <ftlib/ops/causal_conv.hpp>    // causal_conv
#include <ftlib/ops/cross_entropy.hpp>  // scatter_rows
#include <ftlib/ops/elementwise.hpp>    // mul
#include <ftlib/ops/shape.hpp>          // slice

#include <functional>  // std::function

namespace ft::inline FTLIB_ABI {

/// [b | c | z] = in(x), y = out(c conv(b z)), over packed sequences: (N, C) -> (N, C). LFM2; transformers' models/lfm2.
template <Scalar T, Device D> struct ShortConv {
  Linear<T, D> in_proj = {}, out_proj = {};  // (3 C, C), (C, C)
  Parameter<T, D> kernel = {};               // (C, 1, L)

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, const Placement<D>& at,
                          typename KvCache<T, D>::Layer* cache) {
    const int64_t C = x.cols();
    const auto all = in_proj(ctx, x);
    auto seen = mul(ctx, slice(ctx, all, 1, 0, C), slice(ctx, all, 1, 2 * C, 3 * C));  // (N, C)
    if (cache) {  // which keeps what the convolution sees, in the place of keys
      no_backward(ctx, "a convolution with a cache", {seen});
      const Tensor<T, D> rows = cache->k.reshaped({cache->k.size(0), C});
      scatter_rows(ctx, View<T>(cache->k.data(), rows.shape()), View<const T>(seen.data(), seen.shape()),
                   at.cache_rows.view());
      seen = rows;
    }
    const auto mixed = causal_conv(ctx, seen, in_use(ctx, kernel), at.segments);
    return out_proj(ctx, mul(ctx, slice(ctx, all, 1, C, 2 * C), mixed));
  }
  KvShape kept() const { return {1, out_proj.weight.shape()[1], /*values=*/false}; }
  explicit operator bool() const { return static_cast<bool>(kernel); }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    in_proj.visit(f);
    if (kernel) f(kernel);
    out_proj.visit(f);
  }
};

}  // namespace ft::inline FTLIB_ABI
