// ops/gated_delta_rule.hpp: the gated delta rule over packed texts, linear attention with a state that forgets and
// corrects itself: contract, checks, autograd rule.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/gated_delta_rule.shared.hpp>  // DeltaRule
#include <ftlib/ops/heads.hpp>                    // dense_heads
#include <ftlib/ops/kinds.hpp>                    // Segment
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/gated_delta_rule.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/gated_delta_rule.cuda.cuh>
#endif

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
template <Scalar T, Device D>
[[gnu::cold]] void check_delta(const Shape& q, const Shape& k, const Shape& v, const Shape& a, const Shape& b,
                               const Parameter<T, D>& A_log, const Parameter<T, D>& dt_bias) {
  if (q.rank() != 3 || k != q || v.rank() != 3 || v[0] != q[0] || q[1] < 1 || q[2] < 1 || v[2] < 1 || v[1] < 1 ||
      v[1] % q[1])
    throw Error(str("gated_delta_rule: q ", q, ", k ", k, " and v ", v, " do not fit one another"),
                "they are (tokens, heads, head size); q and k are alike, and their heads divide v's.");
  const Shape gates{v[0], v[1]}, heads{v[1]};
  if (a != gates || b != gates || !A_log.value || !dt_bias.value || A_log.shape() != heads || dt_bias.shape() != heads)
    throw Error(str("gated_delta_rule: a ", a, ", b ", b, ", A_log ", A_log.shape(), " and dt_bias ", dt_bias.shape(),
                    " do not fit v ", v),
                "a and b have one value for each head of a token, A_log and dt_bias one a head in the compute type.");
}
/// The texts of segments. Without states to go on from, a text's keys are its queries.
[[gnu::cold]] inline std::vector<DeltaText> delta_texts(const std::vector<Segment>& segments, int64_t tokens,
                                                        const std::vector<int64_t>* slots, int64_t slot_count) {
  std::vector<DeltaText> texts;
  int64_t next = 0, chunks = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    const int64_t n = s.q_end - s.q_begin, before = s.k_end - s.k_begin - n;
    const auto name = [&] {
      return str("gated_delta_rule: segment ", i, ", tokens [", s.q_begin, ", ", s.q_end, "), ");
    };
    if (s.q_begin != next || n < 0 || before < 0 || (!slots && before > 0))
      throw Error(str(name(), "with rows [", s.k_begin, ", ", s.k_end, ") makes no sense"),
                  "segments follow one another, and tokens before a segment's come with states that were kept.");
    const int64_t slot = slots ? slots->at(i) : 0;
    if (slots && (slot < 0 || slot >= slot_count)) throw Error(str(name(), "has slot ", slot, " of ", slot_count));
    next = s.q_end;
    if (n == 0) continue;
    texts.push_back({s.q_begin, s.q_end, chunks, slot, before > 0});
    chunks += (n + DeltaRule<float>::chunk - 1) / DeltaRule<float>::chunk;
  }
  if (next != tokens) throw Error(str("gated_delta_rule: segments of ", next, " tokens for ", tokens));
  return texts;
}
}  // namespace detail

/// The states (slots, H, dk, dv) that texts go on from and leave, and the slot of each segment.
template <Scalar T, Device D> struct DeltaStates {
  Tensor<accumulate_t<T>, D> states;
  const std::vector<int64_t>& slots;
};

/// In each head of each segment, with a state S (dk, dv) that begins as zeros, for one token after the other
///   S <- e^g S;  S <- S + k (beta (v - S^T k))^T;  y = S^T q
/// where g = -e^A_log softplus(a + dt_bias) and beta = 1 / (1 + e^-b). q and k (N, KH, dk), v (N, H, dv), a and b (N,
/// H), A_log and dt_bias (H) -> y (N, H, dv); H / KH heads of v share one of q and k. q and k are taken as they are:
/// normalise k, for the rule corrects what the state holds only where |k| <= 1. Computed in chunks of 64 tokens, in
/// float where T has 16 bits; backward keeps the state that each chunk begins with. With `kept` a segment whose rows
/// are more than its tokens goes on from its slot's state, each slot gets the state its segment ends with, and nothing
/// is differentiated. Throws Error where shapes or segments do not fit.       arXiv:2412.06464; in chunks:
/// arXiv:2406.06484
template <Scalar T, Device D>
Tensor<T, D> gated_delta_rule(Context<D>& ctx, const Tensor<T, D>& q_, const Tensor<T, D>& k_, const Tensor<T, D>& v_,
                              const Tensor<T, D>& a_, const Tensor<T, D>& b_, Parameter<T, D>& A_log,
                              Parameter<T, D>& dt_bias, const std::vector<Segment>& segments,
                              DeltaStates<T, D>* kept = nullptr) {
  detail::check_delta(q_.shape(), k_.shape(), v_.shape(), a_.shape(), b_.shape(), A_log, dt_bias);
  const int64_t N = v_.size(0), H = v_.size(1), dk = q_.size(2), dv = v_.size(2);
  if (kept && (kept->states.rank() != 4 || kept->states.shape() != Shape{kept->states.size(0), H, dk, dv} ||
               kept->slots.size() != segments.size()))
    throw Error(str("gated_delta_rule: states ", kept->states.shape(), " and ", kept->slots.size(),
                    " slots do not fit ", segments.size(), " segments of k ", k_.shape(), " and v ", v_.shape()));
  DeltaRule<T> rule;
  rule.texts = detail::delta_texts(segments, N, kept ? &kept->slots : nullptr, kept ? kept->states.size(0) : 0);
  const Tensor<T, D> q = detail::dense_heads(ctx, q_), k = detail::dense_heads(ctx, k_),
                     v = detail::dense_heads(ctx, v_), a = contiguous(ctx, a_), b = contiguous(ctx, b_);
  rule.q = q.view(), rule.k = k.view(), rule.v = v.view(), rule.a = a.view(), rule.b = b.view();
  rule.A_log = A_log.value.view(), rule.dt_bias = dt_bias.value.view();
  Tensor<T, D> y(ctx, {N, H, dv});
  Tensor<accumulate_t<T>, D> starts;
  const bool recorded = recording(ctx, "gated_delta_rule", {q, k, v, a, b, A_log, dt_bias});
  if (recorded && !kept && !rule.texts.empty()) {
    const DeltaText& last = rule.texts.back();
    const int64_t chunks = last.chunk + (last.end - last.begin + DeltaRule<T>::chunk - 1) / DeltaRule<T>::chunk;
    starts = Tensor<accumulate_t<T>, D>(ctx, {chunks, H, dk, dv});
  }
  gated_delta_forward(ctx, rule, y.view(), starts.view(), kept ? kept->states.view() : View<accumulate_t<T>>{});
  if (kept) no_backward(ctx, "gated_delta_rule with states that are kept", {q, k, v, a, b});
  if (!recorded || kept) return y;
  // What the kernels compute: DeltaHead::backward (ops/gated_delta_rule.shared.hpp).
  ctx.tape()->push({&y}, [rule, q, k, v, a, b, starts, &A_log, &dt_bias](Gradients<T, D>& g) {
    const View<T> dq = g.assign(q), dk_view = g.assign(k), dv_view = g.assign(v), da = g.assign(a), db = g.assign(b);
    const View<accumulate_t<T>> dA_log = g.add(A_log), ddt_bias = g.add(dt_bias);
    const View<const T> dy = g.incoming();
    gated_delta_backward(g.context(), rule, dq, dk_view, dv_view, da, db, dA_log, ddt_bias, dy,
                         View<const accumulate_t<T>>(starts.view()));
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
