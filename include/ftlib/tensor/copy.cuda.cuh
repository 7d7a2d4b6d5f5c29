// tensor/copy.cuda.cuh: moving numbers on the GPU: fill, strided copy, conversion, accumulation.
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>  // map
#include <ftlib/tensor/view.hpp>       // View

namespace ft::inline FTLIB_ABI {

namespace detail {

template <class T> struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};
struct Same {
  template <class A> __device__ A operator()(A x) const { return x; }
};
struct Sum {
  template <class A> __device__ A operator()(A a, A b) const { return a + b; }
};

/// Two strided arrays of one shape, as a kernel takes them.
struct StridedPair {
  int rank;
  int64_t shape[Shape::max_rank], to[Shape::max_rank], from[Shape::max_rank];

  StridedPair(const Shape& sizes, const Shape& to_strides, const Shape& from_strides) : rank(sizes.rank()) {
    for (int i = 0; i < rank; ++i) {
      shape[i] = sizes[i];
      to[i] = to_strides[i];
      from[i] = from_strides[i];
    }
  }
};

// One element a thread, in row-major order of the shape. How much memory it moves depends on the strides.
template <Write write, class To, class From>
__global__ void __launch_bounds__(block_size) strided_kernel(To* to, const From* from, StridedPair at, int64_t count) {
  int64_t rest = blockIdx.x * int64_t{block_size} + threadIdx.x, to_at = 0, from_at = 0;
  if (rest >= count) return;
  for (int axis = at.rank - 1; axis >= 0; --axis) {
    const int64_t i = rest % at.shape[axis];
    rest /= at.shape[axis];
    to_at += i * at.to[axis];
    from_at += i * at.from[axis];
  }
  const auto x = widen(from[from_at]);
  to[to_at] = narrow<To>(write == Write::add ? widen(to[to_at]) + x : x);
}
template <Write write, class To, class From> void strided(Context<Cuda>& ctx, View<To> to, View<const From> from) {
  launch(strided_kernel<write, To, From>, grid_of(ceil_div(to.count(), block_size)), block_size, 0, ctx.stream(),
         to.data, from.data, StridedPair(to.shape, to.strides, from.strides), to.count());
}

}  // namespace detail

/// to = value everywhere; a strided view is filled where its elements lie.
template <Element T> void fill(Context<Cuda>& ctx, View<T> to, T value) {
  if (to.contiguous()) {
    if constexpr (Scalar<T>)
      detail::map(ctx, detail::Constant<accumulate_t<T>>{static_cast<accumulate_t<T>>(value)}, to.count(), to.data);
    else detail::map(ctx, detail::Constant<T>{value}, to.count(), to.data);
    return;
  }
  const auto one = ctx.upload(std::vector<T>{value});
  Shape still = to.shape;
  for (int i = 0; i < still.rank(); ++i) still[i] = 0;
  detail::strided<Write::assign>(ctx, to, View<const T>(one.get(), to.shape, still));
}

/// to = from, of equal shape; converts where the types differ.
template <Element To, Element From> void copy(Context<Cuda>& ctx, View<To> to, View<const From> from) {
  if (!to.contiguous() || !from.contiguous()) detail::strided<Write::assign>(ctx, to, from);
  else if constexpr (std::same_as<To, From>)
    ctx.copy_on_device(to.data, from.data, static_cast<std::size_t>(to.count()) * sizeof(To));
  else detail::map(ctx, detail::Same{}, to.count(), to.data, from.data);
}

/// to += from, of equal shape.
template <Scalar T> void accumulate(Context<Cuda>& ctx, View<T> to, View<const T> from) {
  if (to.contiguous() && from.contiguous())
    detail::map(ctx, detail::Sum{}, to.count(), to.data, static_cast<const T*>(to.data), from.data);
  else detail::strided<Write::add>(ctx, to, from);
}

}  // namespace ft::inline FTLIB_ABI
