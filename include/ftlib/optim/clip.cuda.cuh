// optim/clip.cuda.cuh: the sum of squares over a list of arrays, and their scaling, on the GPU.
#pragma once
#include <ftlib/ops/reduce.cuda.cuh>  // sum_to
#include <ftlib/tensor/view.hpp>      // View

#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
struct Square {
  template <class A> __device__ A operator()(A x) const { return x * x; }
};
template <class A> struct Times {
  A factor;
  __device__ A operator()(A x) const { return x * factor; }
};
}  // namespace detail

/// The sum of x^2 over all elements of all `xs` (contiguous), in double, in an order that depends on sizes alone. Waits
/// for the device once.
template <Scalar A> double sum_of_squares(Context<Cuda>& ctx, std::span<const View<A>> xs) {
  int64_t parts = 0;
  for (const View<A>& x : xs) parts += detail::sum_parts(x.count());
  if (parts == 0) return 0;
  const std::shared_ptr<void> memory = ctx.allocate(static_cast<std::size_t>(parts + 1) * sizeof(double));
  double* const sum = static_cast<double*>(memory.get());
  double* partial = sum + 1;
  for (const View<A>& x : xs) {
    detail::sum_to(ctx, detail::Square{}, partial, x.count(), static_cast<const A*>(x.data));
    partial += detail::sum_parts(x.count());
  }
  launch(detail::finish_sum_kernel<double>, 1, detail::block_size, 0, ctx.stream(), sum,
         static_cast<const double*>(sum + 1), parts, 1.0);
  double result = 0;
  ctx.copy_to_host(&result, sum, sizeof result);
  return result;
}

/// x *= factor for all `xs` (contiguous).
template <Scalar A> void scale_all(Context<Cuda>& ctx, std::span<const View<A>> xs, double factor) {
  for (const View<A>& x : xs)
    detail::map(ctx, detail::Times<accumulate_t<A>>{static_cast<accumulate_t<A>>(factor)}, x.count(), x.data,
                static_cast<const A*>(x.data));
}

}  // namespace ft::inline FTLIB_ABI
