// ops/cross_entropy.hpp: the language model's loss: LM head and cross-entropy in one op, on target tokens alone, in
// chunks, so that all logits (Gemma: 1 MiB a token) are never held.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/activation.hpp>   // tanh
#include <ftlib/ops/elementwise.hpp>  // scale
#include <ftlib/ops/linear.hpp>       // detail::project
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/cross_entropy.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/cross_entropy.cuda.cuh>
#endif

#include <algorithm>  // std::lower_bound, std::is_sorted
#include <utility>    // std::pair
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// y = cap tanh(x / cap), any shape: logits that stay within (-cap, cap). A cap of 0 is none.      arXiv:2408.00118
template <Scalar T, Device D> Tensor<T, D> soft_cap(Context<D>& ctx, const Tensor<T, D>& x, float cap) {
  return cap > 0 ? scale(ctx, tanh(ctx, scale(ctx, x, 1 / cap)), cap) : x;
}

/// How many bytes of logits are held at a time.
inline constexpr int64_t logits_chunk_bytes = int64_t{64} << 20;

/// The target of a row that has none.
inline constexpr int32_t ignored_target = -100;

namespace detail {
/// The rows of N that have a target, and their targets. Throws Error for a target outside the vocabulary.
inline std::pair<std::vector<int32_t>, std::vector<int32_t>> rows_with_target(const char* op, const char* of,
                                                                              const std::vector<int32_t>& targets,
                                                                              const Shape& x, int64_t V) {
  if (static_cast<int64_t>(targets.size()) != x.rows())
    throw Error(str(op, ": ", targets.size(), " targets do not fit ", of, ' ', x));
  std::vector<int32_t> rows, wanted;
  for (std::size_t n = 0; n < targets.size(); ++n) {
    if (targets[n] == ignored_target) continue;
    if (targets[n] < 0 || targets[n] >= V)
      throw Error(str(op, ": target ", targets[n], " of row ", n, " is outside the vocabulary of ", V));
    rows.push_back(static_cast<int32_t>(n));
    wanted.push_back(targets[n]);
  }
  return {std::move(rows), std::move(wanted)};
}

/// soft_cap() where the kernel behind it writes the gradient over the logits. `inner` is x / cap, which back() needs.
template <Scalar T, Device D> struct SoftCap {
  float cap;
  Tensor<T, D> inner{};

  /// Of `logits`, in their place. Those beyond one chunk are held while back() may come.
  void apply(Context<D>& ctx, View<T> logits) {
    if (!(cap > 0)) return;
    inner = Tensor<T, D>(ctx, logits.shape);
    linear_combination(ctx, inner.view(), In<T>(logits), {}, T(1 / cap), T(0.0f));
    activation_forward(ctx, Tanh{}, logits, In<T>(inner.view()));
    linear_combination(ctx, logits, In<T>(logits), {}, T(cap), T(0.0f));
  }
  /// dx = dy (1 - tanh(x / cap)^2), in place.
  void back(Context<D>& ctx, View<T> dy) const {
    if (cap > 0) activation_backward(ctx, Tanh{}, dy, In<T>(dy), In<T>(inner.view()));
  }
  int64_t buffers() const { return cap > 0 ? 2 : 1; }
};
}  // namespace detail

/// sum over rows with a target of -log softmax(logits)[target]: (N, V), (N) -> (), in the type that sums are kept in.
/// `targets` holds a token in [0, V) or ignored_target. The gradient, of the logits' size, is made in the forward pass.
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> cross_entropy(Context<D>& ctx, const Tensor<T, D>& logits_,
                                         const std::vector<int32_t>& targets) {
  using A = accumulate_t<T>;
  if (logits_.rank() < 1 || logits_.cols() < 1) throw Error(str("cross_entropy: logits ", logits_.shape()));
  const Tensor<T, D> logits = contiguous(ctx, logits_);
  const auto [rows_, wanted_] =
      detail::rows_with_target("cross_entropy", "logits", targets, logits.shape(), logits.cols());
  const int64_t n = static_cast<int64_t>(rows_.size()), V = logits.cols();
  const Tensor<int32_t, D> rows(ctx, {n}, rows_), wanted(ctx, {n}, wanted_);
  Tensor<T, D> work(ctx, {n, V});  // the kernel writes over its logits
  gather_rows(ctx, work.view(), View<const T>(logits.data(), {logits.rows(), V}), rows.view());
  const bool wants = recording(ctx, "cross_entropy", {logits});
  Tensor<A, D> nll(ctx, {n}), loss(ctx, Shape{});
  softmax_cross_entropy(ctx, nll.view(), work.view(), wanted.view(), wants);
  sum_all(ctx, loss.view(), nll.view());
  // dlogits = (softmax - onehot) dloss where there is a target, else 0.  dloss stays on the device.
  record(ctx, "cross_entropy", loss, {logits}, [id = TensorId<T>(logits), work, rows, V](Gradients<A, D>& g) {
    if (auto dx = g.assign(id)) {
      const View<T> flat(dx.data, {dx.rows(), V});
      if (rows.count() < flat.rows()) fill(g.context(), flat, T(0.0f));
      scatter_rows(g.context(), flat, work.view(), rows.view(), g.incoming());
    }
  });
  return loss;
}

namespace detail {
/// linear_cross_entropy() of groups of rows, group g being the rows [starts[g], starts[g + 1]): a result of `shape`
/// with an element for each.
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> grouped_cross_entropy(Context<D>& ctx, const Tensor<T, D>& h_, Parameter<T, D>& w,
                                                 const std::vector<int32_t>& targets,
                                                 const std::vector<int64_t>& starts, const Shape& shape,
                                                 int64_t chunk_bytes, float cap) {
  using A = accumulate_t<T>;
  detail::check_linear<T, D>("linear_cross_entropy", h_.shape(), w, nullptr);
  const Tensor<T, D> h = contiguous(ctx, h_);
  const int64_t V = w.shape()[0], C = w.shape()[1];
  const auto [rows_, wanted_] = detail::rows_with_target("linear_cross_entropy", "h", targets, h.shape(), V);
  const int64_t n_rows = static_cast<int64_t>(rows_.size());
  const Tensor<int32_t, D> rows(ctx, {n_rows}, rows_), wanted(ctx, {n_rows}, wanted_);
  const int64_t held = SoftCap<T, D>{cap}.buffers() * V * static_cast<int64_t>(sizeof(T));
  const int64_t chunk = std::max<int64_t>(1, chunk_bytes / held);
  std::vector<int64_t> groups;  // where each begins, among the rows with a target, and where the last one ends
  for (const int64_t start : starts)
    groups.push_back(std::lower_bound(rows_.begin(), rows_.end(), start) - rows_.begin());

  // visit(first, rows, targets, rows of h, logits, their cap) for each chunk of the rows with a target from `from` to
  // `to`
  using Indices = View<const int32_t>;
  const auto for_each_chunk = [V, C, chunk, cap, rows, wanted, &w](Context<D>& c, const Tensor<T, D>& x, int64_t from,
                                                                   int64_t to, auto visit) {
    for (int64_t begin = from; begin < to; begin += chunk) {
      const int64_t n = std::min(chunk, to - begin);
      const Indices at(rows.data() + begin, {n}), of(wanted.data() + begin, {n});
      Tensor<T, D> hs(c, {n, C}), logits(c, {n, V});
      gather_rows(c, hs.view(), x.view(), at);
      detail::project(c, Write::assign, logits.view(), hs.view(), w.weight());
      SoftCap<T, D> capped{cap};
      capped.apply(c, logits.view());
      visit(begin, at, of, hs, logits, capped);
    }
  };

  const bool wants = recording(ctx, "linear_cross_entropy", {h, w});
  const bool early = wants && h.node() && !w.trainable;
  Tensor<A, D> nll(ctx, {n_rows});
  Tensor<T, D> dhs = early ? Tensor<T, D>(ctx, {n_rows, C}) : Tensor<T, D>{};
  for_each_chunk(
      ctx, h, 0, n_rows,
      [&](int64_t begin, Indices, Indices of, Tensor<T, D>& hs, Tensor<T, D>& logits, const SoftCap<T, D>& capped) {
        softmax_cross_entropy(ctx, View<A>(nll.data() + begin, {hs.rows()}), logits.view(), of, early);
        if (!early) return;
        capped.back(ctx, logits.view());
        detail::project_back(ctx, Write::assign, View<T>(dhs.data() + begin * C, hs.shape()), logits.view(),
                             w.weight());
      });
  Tensor<A, D> loss(ctx, shape);
  for (std::size_t g = 0; g + 1 < groups.size(); ++g)
    sum_all(ctx, View<A>(loss.data() + g, Shape{}), In<A>(nll.data() + groups[g], {groups[g + 1] - groups[g]}));

  // dlogits = (softmax - onehot) dloss;  dh = dlogits W;  dW += dlogits^T h.  dloss, a group's, stays on the device.
  record(ctx, "linear_cross_entropy", loss, {h, w},
         [&w, id = TensorId<T>(h), kept = early ? Tensor<T, D>{} : h, dhs, rows, groups,
          for_each_chunk](Gradients<A, D>& g) {
           Context<D>& c = g.context();
           auto dh = g.assign(id);
           if (dh) fill(c, dh, T(0));
           for (std::size_t k = 0; k + 1 < groups.size(); ++k) {
             const int64_t from = groups[k], n = groups[k + 1] - from;
             if (n == 0) continue;
             const In<A> dloss(g.incoming().data + k, Shape{});
             if (dhs) {
               scatter_rows(c, dh, In<T>(dhs.data() + from * dhs.cols(), {n, dhs.cols()}),
                            Indices(rows.data() + from, {n}), dloss);
               continue;
             }
             for_each_chunk(c, kept, from, from + n,
                            [&](int64_t, Indices at, Indices of, Tensor<T, D>& hs, Tensor<T, D>& logits,
                                const SoftCap<T, D>& capped) {
                              softmax_cross_entropy(c, {}, logits.view(), of, true, dloss);
                              capped.back(c, logits.view());
                              if (auto dw = g.add(w)) detail::outer<T>(c, Write::add, dw, logits.view(), hs.view());
                              if (!dh) return;
                              detail::project_back(c, Write::assign, hs.view(), logits.view(), w.weight());
                              scatter_rows(c, dh, hs.view(), at);
                            });
           }
         });
  return loss;
}
}  // namespace detail

/// sum over rows with a target of -log softmax(h W^T)[target]: (N, C), (V, C), (N) -> (), in the type that sums are
/// kept in. `targets` holds a token in [0, V) or ignored_target. With a `cap`, of soft_cap(h W^T) in the place of h
/// W^T. Logits live in chunks of at most `chunk_bytes`. Where W is frozen the gradient of h is made in the forward
/// pass, while a chunk's logits are at hand; where W is trained the chunks are computed again in backward, because dW
/// must wait for the gradient that comes in. The idea of fusing head and loss: Wijmans et al., arXiv:2411.09009; Hsu et
/// al., arXiv:2410.10989.
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> linear_cross_entropy(Context<D>& ctx, const Tensor<T, D>& h, Parameter<T, D>& w,
                                                const std::vector<int32_t>& targets,
                                                int64_t chunk_bytes = logits_chunk_bytes, float cap = 0) {
  return detail::grouped_cross_entropy(ctx, h, w, targets, {0, h.rows()}, Shape{}, chunk_bytes, cap);
}

/// The same for each group of rows by itself, group g being the rows [starts[g], starts[g + 1]): B + 1 starts -> (B). A
/// group without targets has 0. Throws Error where the starts do not go from 0 to N without falling.
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> linear_cross_entropy_by_group(Context<D>& ctx, const Tensor<T, D>& h, Parameter<T, D>& w,
                                                         const std::vector<int32_t>& targets,
                                                         const std::vector<int64_t>& starts,
                                                         int64_t chunk_bytes = logits_chunk_bytes, float cap = 0) {
  if (starts.empty() || starts.front() != 0 || starts.back() != h.rows() ||
      !std::is_sorted(starts.begin(), starts.end()))
    throw Error(str("linear_cross_entropy_by_group: ", starts.size(), " starts do not part h ", h.shape()),
                "they go from 0 to the number of rows, one more than groups.");
  return detail::grouped_cross_entropy(ctx, h, w, targets, starts, {static_cast<int64_t>(starts.size()) - 1},
                                       chunk_bytes, cap);
}

}  // namespace ft::inline FTLIB_ABI
