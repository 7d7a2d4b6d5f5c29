// optim/ema.cuda.cuh: one array moved towards another, on the GPU.
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>  // map
#include <ftlib/tensor/view.hpp>       // View

namespace ft::inline FTLIB_ABI {

namespace detail {
template <class A> struct Towards {
  A share;
  __device__ A operator()(A x, A to) const { return x + share * (to - x); }
};
}  // namespace detail

/// x += share (to - x) over contiguous arrays of one shape.
template <Scalar T> void move_towards(Context<Cuda>& ctx, View<accumulate_t<T>> x, View<const T> to, double share) {
  using A = accumulate_t<T>;
  detail::map(ctx, detail::Towards<A>{static_cast<A>(share)}, x.count(), x.data, static_cast<const A*>(x.data),
              to.data);
}

}  // namespace ft::inline FTLIB_ABI
