// nn/attention.hpp: Attention, the block that all decoders share: projections, norms on q and k, rotary positions,
// window, scale; with a KV cache or without.
#pragma once
#include <ftlib/nn/kv_cache.hpp>        // KvCache, Placement
#include <ftlib/nn/linear.hpp>          // Linear
#include <ftlib/nn/norm.hpp>            // NormLayer
#include <ftlib/ops/activation.hpp>     // glu
#include <ftlib/ops/attention.hpp>      // attention
#include <ftlib/ops/cross_entropy.hpp>  // scatter_rows
#include <ftlib/ops/rope.hpp>           // Rotary, rope
#include <ftlib/ops/shape.hpp>          // reshape, slice

#include <functional>  // std::function
#include <memory>      // std::shared_ptr

namespace ft::inline FTLIB_ABI {

/// (N, H hd) -> (N, H, hd), and back.
template <Scalar T, Device D> Tensor<T, D> split_heads(Context<D>& ctx, const Tensor<T, D>& x, int64_t head_dim) {
  return reshape(ctx, x, {x.rows(), x.cols() / head_dim, head_dim});
}
template <Scalar T, Device D> Tensor<T, D> merge_heads(Context<D>& ctx, const Tensor<T, D>& x) {
  return reshape(ctx, x, {x.size(0), x.size(1) * x.size(2)});
}

/// Attention of q over k and v, or over the cache once k and v have been written to it.
template <Scalar T, Device D>
Tensor<T, D> cached_attention(Context<D>& ctx, const Tensor<T, D>& q, const Tensor<T, D>& k, const Tensor<T, D>& v,
                              const Placement<D>& at, const AttentionOptions& options,
                              typename KvCache<T, D>::Layer* cache, Parameter<T, D>* sinks = nullptr,
                              const Tensor<float, D>& bias = {}) {
  if (!cache) return attention(ctx, q, k, v, at.segments, options, sinks, bias);
  no_backward(ctx, "attention with a KV cache", {q, k, v});
  const auto rows = [](const Tensor<T, D>& x, T* data) { return View<T>(data, {x.size(0), x.size(1) * x.size(2)}); };
  const Tensor<T, D> new_k = contiguous(ctx, k), new_v = contiguous(ctx, v);
  scatter_rows(ctx, rows(cache->k, cache->k.data()), View<const T>(new_k.data(), {k.size(0), k.size(1) * k.size(2)}),
               at.cache_rows.view());
  scatter_rows(ctx, rows(cache->v, cache->v.data()), View<const T>(new_v.data(), {v.size(0), v.size(1) * v.size(2)}),
               at.cache_rows.view());
  return attention(ctx, q, cache->k, cache->v, at.segments, options, sinks, bias);
}

/// Keys and values that one layer computes and others read too, (N, KV, hd) each, behind norms and positions.
template <Scalar T, Device D> struct KeysValues {
  Tensor<T, D> k = {}, v = {};
};

/// Self-attention over packed sequences, (N, C) -> (N, C). H query heads share KV key-value heads, H / KV to each. With
/// an output gate its result is multiplied by sigmoid(gate) before o_proj.
///                                                                     arXiv:1706.03762, 2104.09864, 2305.13245
template <Scalar T, Device D> struct Attention {
  // (H hd, C), (KV hd, C), (KV hd, C); each with a bias of its own or none. No v: it is k, before its norm. No k
  // either: both are another layer's.
  Linear<T, D> q_proj = {}, k_proj = {}, v_proj = {};
  bool output_gate = false;                               // q_proj (2 H hd, C) has in each head q and then a gate
  Linear<T, D> qkv_proj = {};                             // ((H + 2 KV) hd, C), in place of the three
  Linear<T, D> o_proj = {};                               // (C, H hd)
  NormLayer<T, D> q_norm = {}, k_norm = {}, v_norm = {};  // (hd), over each head and before the positions; or empty
  Parameter<T, D> sinks = {};                             // (H), or empty
  int64_t heads = 0, kv_heads = 0, head_dim = 0;          // H, KV, hd
  std::shared_ptr<Rotary<T, D>> rotary = {};  // shared by layers whose frequencies are alike; null: no positions
  AttentionOptions options = {};              // mask, window, scale
  Tensor<float, D> bias = {};                 // (H, 2 R + 1), of scores by distance; or empty

  /// Leaves its keys and values in `shared`, or where it has none reads those that are there, or in the other layer's
  /// cache.
  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, const Placement<D>& at,
                          typename KvCache<T, D>::Layer* cache, KeysValues<T, D>& shared) {
    Parameter<T, D>* const sink = sinks ? &in_use(ctx, sinks) : nullptr;
    Tensor<T, D> q, k, v, gate;  // (N, H, hd), (N, KV, hd), (N, KV, hd), (N, H hd)
    if (reads_another()) {
      q = placed(ctx, split_heads(ctx, q_proj(ctx, x), head_dim), q_norm, at);
      const Tensor<T, D>&keys = cache ? cache->k : shared.k, &values = cache ? cache->v : shared.v;
      return o_proj(ctx, merge_heads(ctx, attention(ctx, q, keys, values, at.segments, options, sink, bias)));
    }
    if (qkv_proj.weight) {
      const auto all = split_heads(ctx, qkv_proj(ctx, x), head_dim);
      q = slice(ctx, all, 1, 0, heads);
      k = slice(ctx, all, 1, heads, heads + kv_heads);
      v = slice(ctx, all, 1, heads + kv_heads, heads + 2 * kv_heads);
    } else {
      q = split_heads(ctx, q_proj(ctx, x), output_gate ? 2 * head_dim : head_dim);
      if (output_gate) {
        gate = merge_heads(ctx, slice(ctx, q, 2, head_dim, 2 * head_dim));
        q = slice(ctx, q, 2, 0, head_dim);
      }
      k = split_heads(ctx, k_proj(ctx, x), head_dim);
      v = v_proj.weight ? split_heads(ctx, v_proj(ctx, x), head_dim) : k;
    }
    q = placed(ctx, q, q_norm, at);
    k = placed(ctx, k, k_norm, at);
    if (v_norm) v = v_norm(ctx, v);
    shared = {k, v};
    const auto y = merge_heads(ctx, cached_attention(ctx, q, k, v, at, options, cache, sink, bias));
    return o_proj(ctx, gate ? glu(ctx, gate, y) : y);
  }
  bool reads_another() const { return !k_proj.weight && !qkv_proj.weight; }
  KvShape kept() const { return {reads_another() ? 0 : kv_heads, head_dim}; }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    for (Linear<T, D>* l : {&q_proj, &k_proj, &v_proj, &qkv_proj, &o_proj}) l->visit(f);
    q_norm.visit(f);
    k_norm.visit(f);
    v_norm.visit(f);
    if (sinks) f(sinks);
  }

 private:
  Tensor<T, D> placed(Context<D>& ctx, Tensor<T, D> x, NormLayer<T, D>& norm, const Placement<D>& at) {
    if (norm) x = norm(ctx, x);
    return rotary ? rope(ctx, x, rotary->table(ctx, at.length), at.positions) : x;
  }
};

}  // namespace ft::inline FTLIB_ABI
