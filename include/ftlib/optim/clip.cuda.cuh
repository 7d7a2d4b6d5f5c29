// optim/clip.cuda.cuh: the verdict on the gradients of a step, and their scaling by it, on the GPU: a number of
// launches that does not depend on how many arrays there are, and no word to the host.
#pragma once
#include <ftlib/cuda/reduce.cuda.cuh>   // block_sum
#include <ftlib/optim/clip.shared.hpp>  // Verdict, judge
#include <ftlib/optim/list.cuda.cuh>    // upload_list, my_part
#include <ftlib/tensor/view.hpp>        // View

#include <cmath>   // std::sqrt
#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

template <class A> struct ArrayEntry {
  A* data;
  int64_t count, first_block;
  bool aligned;
};
template <Scalar A> ListOnDevice<ArrayEntry<A>> upload_arrays(Context<Cuda>& ctx, std::span<const View<A>> xs) {
  std::vector<ArrayEntry<A>> entries;
  for (const View<A>& x : xs) entries.push_back({x.data, x.count(), 0, aligned16(x.data)});
  return upload_list(ctx, std::move(entries));
}

template <class A> __global__ void add_loss_kernel(Verdict* v, const A* loss) {
  v->loss += static_cast<double>(widen(*loss));
}

// partial[block] = the sum of squares of its part, in double. Reads each array once.
template <class A, int V>
__global__ void __launch_bounds__(block_size) squares_kernel(double* partial, List<ArrayEntry<A>> list) {
  const auto part = my_part(list);
  const A* const x = part.entry.data;
  double sum = 0;
  for_each_pack_of<V>(part, part.entry.aligned, [&](auto size, int64_t i) {
    const auto xs = load<size()>(x + i);
    for (int k = 0; k < size(); ++k) sum += static_cast<double>(xs.v[k]) * static_cast<double>(xs.v[k]);
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
// One block, after squares_kernel.
template <int threads>
__global__ void __launch_bounds__(threads)
    judge_kernel(Verdict* v, const double* partial, int64_t parts, double max_norm, double loss_scale) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += threads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) judge(*v, std::sqrt(sum), max_norm, loss_scale);
}

// x *= the verdict's factor. Reads and writes each array once, or not at all.
template <class A, int V>
__global__ void __launch_bounds__(block_size) scale_kernel(List<ArrayEntry<A>> list, const Verdict* v) {
  if (!v->finite || v->factor == 1) return;
  const auto part = my_part(list);
  const A factor = static_cast<A>(v->factor);
  A* const x = part.entry.data;
  for_each_pack_of<V>(part, part.entry.aligned, [&](auto size, int64_t i) {
    auto xs = load<size()>(x + i);
    for (int k = 0; k < size(); ++k) xs.v[k] *= factor;
    store(x + i, xs);
  });
}

}  // namespace detail

/// v's loss += loss ()
template <Scalar A> void add_loss(Context<Cuda>& ctx, Verdict* v, View<const A> loss) {
  launch(detail::add_loss_kernel<A>, 1, 1, 0, ctx.stream(), v, loss.data);
}

/// squares = for each block of each of `xs` (contiguous) the sum of x^2, in double.
template <Scalar A>
void block_squares(Context<Cuda>& ctx, View<double> squares,
                   std::span<const View<A>> xs) {  // (blocks), see squares_block
  static_assert(squares_block<Cuda> == detail::list_chunk);
  const auto list = detail::upload_arrays(ctx, xs);
  launch(detail::squares_kernel<A, detail::pack_size<A>>, detail::grid_of(list.blocks), detail::block_size, 0,
         ctx.stream(), squares.data, list.get());
}

/// The verdict on gradients whose squares have these sums, and which loss_scale has made larger; summed in an order
/// that depends on their number alone.
template <Scalar A>
void judge_squares(Context<Cuda>& ctx, Verdict* v, View<const A> squares, double max_norm, double loss_scale) {
  launch(detail::judge_kernel<detail::block_size>, 1, detail::block_size, 0, ctx.stream(), v, squares.data,
         squares.count(), max_norm, loss_scale);
}

/// x *= the verdict's factor for all `xs` (contiguous); nothing where the verdict is not finite.
template <Scalar A> void scale_gradients(Context<Cuda>& ctx, std::span<const View<A>> xs, const Verdict* v) {
  const auto list = detail::upload_arrays(ctx, xs);
  launch(detail::scale_kernel<A, detail::pack_size<A>>, detail::grid_of(list.blocks), detail::block_size, 0,
         ctx.stream(), list.get(), v);
}

}  // namespace ft::inline FTLIB_ABI
