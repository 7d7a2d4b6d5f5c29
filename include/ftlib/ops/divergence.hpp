// ops/divergence.hpp: how far a model's next tokens are from a teacher's: the Kullback-Leibler divergence of logits,
// and of LM head and logits in one op, in chunks.
#pragma once
#include <ftlib/ops/cross_entropy.hpp>  // softmax_divergence, scatter_rows

#include <numeric>  // std::iota

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Records dx = gradient dsum, where the gradient of a sum was made in the forward pass.
template <Scalar T, Device D>
void record_early(Context<D>& ctx, const char* op, Tensor<accumulate_t<T>, D>& sum, const Tensor<T, D>& x,
                  const Tensor<T, D>& gradient) {
  using A = accumulate_t<T>;
  record(ctx, op, sum, {x}, [id = TensorId<T>(x), gradient](Gradients<A, D>& g) {
    const auto dx = g.assign(id);
    if (!dx) return;
    const Shape flat{gradient.rows(), gradient.cols()};
    std::vector<int32_t> all(static_cast<std::size_t>(flat[0]));
    std::iota(all.begin(), all.end(), 0);
    const Tensor<int32_t, D> rows(g.context(), {flat[0]}, all);
    scatter_rows(g.context(), View<T>(dx.data, flat), gradient.view(), rows.view(), g.incoming());
  });
}
}  // namespace detail

/// sum over rows of KL(softmax(teacher) || softmax(logits)) = sum over v of p (log p - log q): (N, V), (N, V) -> (), in
/// the type that sums are kept in. The teacher gets no gradient. Throws Error where the shapes differ.
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> divergence(Context<D>& ctx, const Tensor<T, D>& logits, const Tensor<T, D>& teacher) {
  using A = accumulate_t<T>;
  if (logits.rank() < 1 || logits.cols() < 1 || logits.shape() != teacher.shape())
    throw Error(str("divergence: logits ", logits.shape(), ", the teacher's ", teacher.shape()));
  Tensor<T, D> work = clone(ctx, contiguous(ctx, logits)), spent = clone(ctx, contiguous(ctx, teacher));
  const bool wants = recording(ctx, "divergence", {logits});
  Tensor<A, D> kl(ctx, {logits.rows()}), sum(ctx, Shape{});
  softmax_divergence(ctx, kl.view(), work.view(), spent.view(), wants);
  sum_all(ctx, sum.view(), kl.view());
  // dlogits = (softmax(logits) - softmax(teacher)) dsum
  detail::record_early(ctx, "divergence", sum, logits, work);
  return sum;
}

/// The same of logits h W^T and teacher W^T: (N, C), (V, C), (N, C) -> (). Logits live in chunks of at most
/// `chunk_bytes`, and h's gradient is made in the forward pass. With a `cap`, of soft_cap() of both. Throws Error where
/// W is trained: the teacher's is gone.
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> linear_divergence(Context<D>& ctx, const Tensor<T, D>& h_, const Parameter<T, D>& w,
                                             const Tensor<T, D>& teacher_, int64_t chunk_bytes = logits_chunk_bytes,
                                             float cap = 0) {
  using A = accumulate_t<T>;
  detail::check_linear<T, D>("linear_divergence", h_.shape(), w, nullptr);
  if (h_.shape() != teacher_.shape())
    throw Error(str("linear_divergence: h ", h_.shape(), ", the teacher's ", teacher_.shape()));
  if (w.trainable) throw Error("linear_divergence: " + w.name + " is trained", "the teacher needs it as it was.");
  const Tensor<T, D> h = contiguous(ctx, h_), teacher = contiguous(ctx, teacher_);
  const int64_t N = h.rows(), V = w.shape()[0], C = w.shape()[1];
  detail::SoftCap<T, D> capped{cap};
  const int64_t held = (capped.buffers() + 1) * V * static_cast<int64_t>(sizeof(T));
  const int64_t chunk = std::max<int64_t>(1, chunk_bytes / held);
  const bool wants = recording(ctx, "linear_divergence", {h});
  Tensor<A, D> kl(ctx, {N}), sum(ctx, Shape{});
  Tensor<T, D> dh = wants ? Tensor<T, D>(ctx, h.shape()) : Tensor<T, D>{};
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const int64_t n = std::min(chunk, N - begin);
    Tensor<T, D> logits(ctx, {n, V}), of_teacher(ctx, {n, V});
    detail::project(ctx, Write::assign, logits.view(), In<T>(h.data() + begin * C, {n, C}), w.weight());
    detail::project(ctx, Write::assign, of_teacher.view(), In<T>(teacher.data() + begin * C, {n, C}), w.weight());
    capped.apply(ctx, of_teacher.view());
    capped.apply(ctx, logits.view());
    softmax_divergence(ctx, View<A>(kl.data() + begin, {n}), logits.view(), of_teacher.view(), wants);
    if (!wants) continue;
    capped.back(ctx, logits.view());
    detail::project_back(ctx, Write::assign, View<T>(dh.data() + begin * C, {n, C}), logits.view(), w.weight());
  }
  sum_all(ctx, sum.view(), kl.view());
  // dh = (softmax(h W^T) - softmax(teacher W^T)) W dsum
  detail::record_early(ctx, "linear_divergence", sum, h, dh);
  return sum;
}

}  // namespace ft::inline FTLIB_ABI
