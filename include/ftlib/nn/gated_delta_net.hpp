// nn/gated_delta_net.hpp: GatedDeltaNet, linear attention by the gated delta rule in place of attention.
#pragma once
#include <ftlib/nn/attention.hpp>          // split_heads, merge_heads
#include <ftlib/nn/kv_cache.hpp>           // KvCache, Placement
#include <ftlib/nn/linear.hpp>             // Linear
#include <ftlib/nn/norm.hpp>               // NormLayer
#include <ftlib/nn/short_conv.hpp>         // cached_conv
#include <ftlib/ops/activation.hpp>        // silu, swiglu
#include <ftlib/ops/gated_delta_rule.hpp>  // gated_delta_rule
#include <ftlib/ops/shape.hpp>             // split

#include <cmath>       // std::sqrt
#include <functional>  // std::function
#include <optional>    // std::optional
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// [q | k | v] = silu(conv(qkv(x))), q and k of length 1 head by head, q over sqrt(dk);
/// y = out(norm(gated_delta_rule(q, k, v, a(x), b(x))) silu(z(x))), over packed sequences: (N, C) -> (N, C). H value
/// heads share KH key heads, H / KH to each.               arXiv:2412.06464; Qwen3.5: transformers' models/qwen3_5
template <Scalar T, Device D> struct GatedDeltaNet {
  Linear<T, D> qkv = {}, z = {}, b = {}, a = {};     // (2 KH dk + H dv, C), (H dv, C), (H, C), (H, C)
  Parameter<T, D> kernel = {};                       // (2 KH dk + H dv, 1, L)
  Parameter<T, D> A_log = {}, dt_bias = {};          // (H) each
  NormLayer<T, D> norm = {};                         // (dv)
  Linear<T, D> out_proj = {};                        // (C, H dv)
  int64_t key_heads = 0, heads = 0, dk = 0, dv = 0;  // KH, H
  // (dk) of one number each, not trained: RMSNorm divides by a head's length over sqrt(dk).
  NormLayer<T, D> unit_q = {}, unit_k = {};

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, const Placement<D>& at,
                          typename KvCache<T, D>::Layer* cache) {
    const auto mixed = silu(ctx, cached_conv(ctx, qkv(ctx, x), kernel, at, cache));
    const auto parts = split(ctx, mixed, 1, {key_heads * dk, key_heads * dk, heads * dv});
    const auto q = unit_q(ctx, split_heads(ctx, parts[0], dk)), k = unit_k(ctx, split_heads(ctx, parts[1], dk));
    std::optional<DeltaStates<T, D>> states;
    if (cache) states.emplace(DeltaStates<T, D>{cache->state, at.slots});
    const auto y = gated_delta_rule(ctx, q, k, split_heads(ctx, parts[2], dv), a(ctx, x), b(ctx, x), in_use(ctx, A_log),
                                    in_use(ctx, dt_bias), at.segments, states ? &*states : nullptr);
    return out_proj(ctx, swiglu(ctx, z(ctx, x), merge_heads(ctx, norm(ctx, y))));
  }
  /// Makes the norms of q and k, whose epsilon (1e-6) is on the sum of squares.
  void make_units(Context<D>& ctx) {
    const auto unit = [&](float weight) {
      const std::vector<T> values(static_cast<std::size_t>(dk), T(weight));
      NormLayer<T, D> n;
      n.weight = Parameter<T, D>("unit", Tensor<T, D>(ctx, {dk}, values), false);
      n.eps = 1e-6f / static_cast<float>(dk);
      return n;
    };
    unit_q = unit(1 / static_cast<float>(dk));
    unit_k = unit(1 / std::sqrt(static_cast<float>(dk)));
  }
  KvShape kept() const {
    return {.window = kernel.shape()[2] - 1, .width = kernel.shape()[0], .state = {heads, dk, dv}};
  }
  explicit operator bool() const { return static_cast<bool>(kernel); }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    for (Linear<T, D>* l : {&qkv, &z, &b, &a}) l->visit(f);
    for (Parameter<T, D>* w : {&kernel, &A_log, &dt_bias})
      if (*w) f(*w);
    norm.visit(f);
    out_proj.visit(f);
  }
};

}  // namespace ft::inline FTLIB_ABI
