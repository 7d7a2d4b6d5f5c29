// ops/causal_conv.hpp: a short depthwise convolution over packed sequences that sees no later token and no other
// sequence: contract, checks, autograd rule.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/kinds.hpp>  // Segment
#include <ftlib/ops/shape.hpp>  // transpose
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/causal_conv.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/causal_conv.cuda.cuh>
#endif

#include <algorithm>  // std::min
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// y[q] = sum over t < L of w[., 0, L - 1 - t] x[k - t], for each token q of each segment: k is its row of x, and rows
/// before the segment's first count as 0. x (K, C), w (C, 1, L) as torch's Conv1d holds it -> (N, C). Segments are
/// those of attention: without a cache rows of y and x are the same; with one, x is the cache and nothing is
/// differentiated. Throws Error where shapes do not fit.
template <Scalar T, Device D>
Tensor<T, D> causal_conv(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& w,
                         const std::vector<Segment>& segments) {
  if (x_.rank() != 2 || !w.value || w.shape().rank() != 3 || w.shape()[0] != x_.size(1) || w.shape()[1] != 1)
    throw Error(str("causal_conv: x ", x_.shape(), " does not fit w ", w.shape()),
                "they are (tokens, width) and (width, 1, length), w in the compute type.");
  const int64_t C = x_.size(1), L = w.shape()[2];
  std::vector<int32_t> row, before,
      after;  // of each token: its row of x, and how many rows it may see in each direction
  bool same = true;
  for (const Segment& s : segments) {
    if (s.q_begin != static_cast<int64_t>(row.size()) || s.q_end < s.q_begin || s.k_begin < 0 || s.k_end > x_.size(0) ||
        s.k_end - s.k_begin < s.q_end - s.q_begin)
      throw Error(str("causal_conv: segment of tokens [", s.q_begin, ", ", s.q_end, ") and rows [", s.k_begin, ", ",
                      s.k_end, ") of x ", x_.shape(), " makes no sense"));
    for (int64_t q = s.q_begin; q < s.q_end; ++q) {
      const int64_t k = s.k_end - (s.q_end - q);
      row.push_back(static_cast<int32_t>(k));
      before.push_back(static_cast<int32_t>(std::min(L, k - s.k_begin + 1)));
      after.push_back(static_cast<int32_t>(std::min(L, s.q_end - q)));
      same &= k == q && s.k_begin == s.q_begin;
    }
  }
  const auto N = static_cast<int64_t>(row.size());
  const Tensor<T, D> x = contiguous(ctx, x_);
  const Tensor<T, D> taps = contiguous(ctx, w.value.reshaped({C, L}).strided(0, {L, C}, {1, L}).detached());  // (L, C)
  Tensor<T, D> y(ctx, {N, C});
  causal_conv_apply(ctx, y.view(), x.view(), taps.view(), row, before, int64_t{-1});
  if (!same || N != x.size(0)) {
    no_backward(ctx, "causal_conv over a cache", {x});
    return y;
  }
  // dx[k] = sum over t of w[L - 1 - t] dy[k + t];  dw[L - 1 - t] += sum over q of dy[q] x[q - t]
  record(ctx, "causal_conv", y, {x, w}, [x, taps, row, before, after, C, L, &w](Gradients<T, D>& g) {
    if (const View<T> dx = g.assign(x))
      causal_conv_apply(g.context(), dx, g.incoming(), taps.view(), row, after, int64_t{1});
    if (const View<accumulate_t<T>> dw = g.add(w)) {
      Tensor<accumulate_t<T>, D> dtaps(g.context(), {L, C});
      causal_conv_weights(g.context(), dtaps.view(), g.incoming(), x.view(), before);
      accumulate(g.context(), View<accumulate_t<T>>(dw.data, {C, L}),
                 View<const accumulate_t<T>>(dtaps.data(), {C, L}, {1, C}));
    }
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
