// ops/attention.hpp: softmax attention over packed segments: contract, checks, autograd rule.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/heads.hpp>  // dense_heads
#include <ftlib/ops/kinds.hpp>  // Mask, Segment, AttentionOptions
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/attention.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/attention.cuda.cuh>
#endif

#include <algorithm>  // std::sort
#include <concepts>   // std::same_as
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
[[gnu::cold]] inline void check_attention(const Shape& q, const Shape& k, const Shape& v,
                                          const std::vector<Segment>& segments, const AttentionOptions& options) {
  if (q.rank() != 3 || k.rank() != 3 || k != v || q[2] != k[2] || q[2] < 1 || k[1] < 1 || q[1] % k[1])
    throw Error(str("attention: q ", q, ", k ", k, " and v ", v, " do not fit one another"),
                "they are (tokens, heads, head size); k and v are alike, and their heads divide q's.");
  if (options.window < 0 || (options.window > 0 && options.mask == Mask::none))
    throw Error(str("attention: a window of ", options.window, options.mask == Mask::none ? " without a mask" : ""),
                "a window counts keys back from a query, so it needs Mask::causal; 0 is no window.");
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    const auto name = [&] {
      return str("attention: segment ", i, ", queries [", s.q_begin, ", ", s.q_end, ") and keys [", s.k_begin, ", ",
                 s.k_end, "), ");
    };
    if (s.q_begin < 0 || s.q_end < s.q_begin || s.q_end > q[0] || s.k_begin < 0 || s.k_end < s.k_begin ||
        s.k_end > k[0])
      throw Error(str(name(), "is not within q ", q, " and k ", k));
    const int64_t nq = s.q_end - s.q_begin, nk = s.k_end - s.k_begin;
    if (nk < (options.mask == Mask::causal ? nq : std::min<int64_t>(nq, 1)))
      throw Error(
          str(name(), "has a query that sees no key"),
          "under Mask::causal the last query is at the last key, so there are at least as many keys as queries.");
    if (nq > 0) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return segments[a].q_begin < segments[b].q_begin; });
  for (std::size_t i = 0; i + 1 < order.size(); ++i)
    if (segments[order[i]].q_end > segments[order[i + 1]].q_begin)
      throw Error(str("attention: segments ", order[i], " and ", order[i + 1], " share queries"),
                  "give each row of q to one segment.");
}
}  // namespace detail

/// y = softmax(scale q k^T + mask) v within each segment. q (Nq, H, hd), k and v (Nk, KV, hd) -> (Nq, H, hd); query
/// head h looks at key-value head h / (H / KV). Under Mask::causal query i of a segment of nq queries and nk keys is at
/// position nk - nq + i, so a cache of earlier keys needs nothing more. Segments may share keys, not queries; rows of q
/// in no segment give zeros. Memory is linear in the segments' lengths. With `sinks` (H) each head's softmax has one
/// more score, the sink, whose value is zero: what a query pays it, it pays to no key. Throws Error where shapes or
/// segments do not fit.                          arXiv:1706.03762, 1911.02150, 2305.13245, 2205.14135; sinks:
/// 2309.17453. With a relative `bias` (H, 2 R + 1) a query at position i pays a key at j bias[h][R + clamp(j - i, -R,
/// R)] more; it is a constant, which gets no gradient (T5: arXiv:1910.10683), and on the CPU alone so far.
template <Scalar T, Device D>
Tensor<T, D> attention(Context<D>& ctx, const Tensor<T, D>& q_, const Tensor<T, D>& k_, const Tensor<T, D>& v_,
                       const std::vector<Segment>& segments, const AttentionOptions& options_ = {},
                       Parameter<T, D>* sinks = nullptr, const Tensor<float, D>& bias = {}) {
  AttentionOptions options = options_;
  options.bias = nullptr;
  detail::check_attention(q_.shape(), k_.shape(), v_.shape(), segments, options);
  if (bias) {
    if (bias.shape().rank() != 2 || bias.size(0) != q_.size(1) || bias.size(1) % 2 == 0)
      throw Error(str("attention: a bias ", bias.shape(), " does not fit q ", q_.shape()),
                  "it is (heads, 2 R + 1), of the distances -R to R.");
    if constexpr (!std::same_as<D, Cpu>)
      throw Error("attention: a relative bias on the GPU", "its kernels take none so far; read texts on the CPU.");
    options.bias = bias.data();
    options.reach = bias.size(1) / 2;
  }
  if (sinks && (!sinks->value || sinks->shape() != Shape{q_.shape()[1]}))
    throw Error(str("attention: sinks ", sinks->shape(), " '", sinks->name, "' do not fit q ", q_.shape()),
                "there is one for each head, in the compute type.");
  const Tensor<T, D> q = detail::dense_heads(ctx, q_), k = detail::dense_heads(ctx, k_),
                     v = detail::dense_heads(ctx, v_);
  Tensor<T, D> y(ctx, q.shape());
  Tensor<accumulate_t<T>, D> lse(ctx, {q.size(1), q.size(0)});
  attention_forward(ctx, y.view(), lse.view(), q.view(), k.view(), v.view(), segments, options);
  if (sinks) sink_forward(ctx, y.view(), lse.view(), sinks->value.view());
  // With P = softmax, the sink's column left out: dV = P^T dY, dS = P (dY V^T - rowsum(dY y)), dQ = scale dS K,
  // dK = scale dS^T Q. That column's own value is zero, so its score's gradient is -P_sink rowsum(dY y).
  const auto rule = [q, k, v, y, lse, segments, options, sinks, bias](Gradients<T, D>& g) {
    if (sinks)
      if (const auto dsinks = g.add(*sinks); dsinks)
        sink_backward(g.context(), dsinks, g.incoming(), y.view(), lse.view(), sinks->value.view());
    const View<T> dq = g.assign(q), dk = g.assign(k);
    attention_backward(g.context(), dq, dk, g.assign(v), g.incoming(), q.view(), k.view(), v.view(), y.view(),
                       lse.view(), segments, options);
  };
  if (recording(ctx, "attention", {q, k, v, sinks})) ctx.tape()->push({&y}, rule);
  return y;
}

}  // namespace ft::inline FTLIB_ABI
