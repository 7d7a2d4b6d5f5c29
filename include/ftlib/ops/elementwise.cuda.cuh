// ops/elementwise.cuda.cuh: element by element on the GPU, by groups of rows, and sums to a scalar.
#pragma once
#include <ftlib/cuda/reduce.cuda.cuh>  // sum_groups, sum_all
#include <ftlib/tensor/copy.cuda.cuh>

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

template <class A> struct Scaled {
  A alpha;
  __device__ A operator()(A a) const { return alpha * a; }
};
template <class A> struct Combined {
  A alpha, beta;
  __device__ A operator()(A a, A b) const { return alpha * a + beta * b; }
};
struct Product {
  template <class A> __device__ A operator()(A a, A b) const { return a * b; }
};
struct SquaredDifference {
  template <class A> __device__ A operator()(A a, A b) const { return (a - b) * (a - b); }
};
/// factor of the scalar *dy, wherever that lies
template <class T> struct ScalarTimes {
  const T* dy;
  accumulate_t<T> factor;
  __device__ accumulate_t<T> operator()() const { return factor * widen(*dy); }
  __device__ accumulate_t<T> operator()(accumulate_t<T> x, accumulate_t<T> target) const {
    return factor * widen(*dy) * (x - target);
  }
};

}  // namespace detail

/// y = alpha a + beta b, all (...) and contiguous; an empty b counts as zeros. y may be a or b.
template <Scalar T> void linear_combination(Context<Cuda>& ctx, View<T> y, In<T> a, In<T> b, T alpha, T beta) {
  using A = accumulate_t<T>;
  if (!b) detail::map(ctx, detail::Scaled<A>{static_cast<A>(alpha)}, y.count(), y.data, a.data);
  else
    detail::map(ctx, detail::Combined<A>{static_cast<A>(alpha), static_cast<A>(beta)}, y.count(), y.data, a.data,
                b.data);
}

/// y = a b, all (...).
template <Scalar T> void product(Context<Cuda>& ctx, View<T> y, In<T> a, In<T> b) {
  detail::map(ctx, detail::Product{}, y.count(), y.data, a.data, b.data);
}

namespace detail {

/// The group of row n: the last one that begins at or before it, and so no empty one.
__device__ inline int64_t group_of(int64_t n, const int64_t* starts, int64_t B) {
  int64_t low = 0, high = B;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (starts[middle] <= n) low = middle;
    else high = middle;
  }
  return low;
}

struct Modulate {  // y = x (1 + scale) + shift
  template <class A> __device__ A operator()(A x, A scale, A shift) const { return x * (1 + scale) + shift; }
};
struct ModulateBack {  // dx = dy (1 + scale)
  template <class A> __device__ A operator()(A dy, A scale) const { return dy * (1 + scale); }
};
struct Gate {  // z = x + gate y
  template <class A> __device__ A operator()(A x, A y, A gate) const { return x + gate * y; }
};

// y[n] = f(x[n]..., by[group of n]...) with `by` (B, C). One warp a row, V elements a lane and load. Moves each array
// of N rows once; those of B rows come from the cache.
template <int V, class F, class T, class... By>
__global__ void __launch_bounds__(block_size)
    grouped_kernel(F f, T* y, const T* x, const T* also, const int64_t* starts, int64_t B, int64_t N, int64_t C,
                   const By*... by) {
  const int64_t n = row();
  if (n >= N) return;
  const int64_t g = group_of(n, starts, B);
  for (int64_t c = lane() * V; c < C; c += 32 * V) {
    const auto in = load<V>(x + n * C + c);
    const auto other = also ? load<V>(also + n * C + c) : in;
    [&](const auto&... of_group) {
      Pack<T, V> out;
      for (int k = 0; k < V; ++k) {
        if constexpr (std::same_as<F, Gate>)
          out.v[k] = narrow<T>(f(widen(in.v[k]), widen(other.v[k]), widen(of_group.v[k])...));
        else out.v[k] = narrow<T>(f(widen(in.v[k]), widen(of_group.v[k])...));
      }
      store(y + n * C + c, out);
    }(load<V>(by + g * C + c)...);
  }
}
template <class F, class T, class... By>
void map_groups(Context<Cuda>& ctx, F f, View<T> y, const T* x, const T* also, const std::vector<int64_t>& starts,
                const By*... by) {
  const int64_t N = y.rows(), C = y.cols(), B = static_cast<int64_t>(starts.size()) - 1;
  if (N == 0) return;
  const auto on_device = ctx.upload(starts);
  launch(rows_aligned16<T>(C, y.data, x, also, by...) ? grouped_kernel<pack_size<T>, F, T, By...>
                                                      : grouped_kernel<1, F, T, By...>,
         grid_of_rows(N), block_size, 0, ctx.stream(), f, y.data, x, also, on_device.get(), B, N, C, by...);
}

/// What row n gives to a sum over rows: dy x, or dy alone where x is null.
template <class T> struct RowProducts {
  const T *dy, *x;
  int64_t C;
  template <int V> __device__ void add(accumulate_t<T> (&sum)[V], int64_t n, int64_t c) const {
    const auto a = load<V>(dy + n * C + c);
    const auto b = x ? load<V>(x + n * C + c) : a;
    for (int k = 0; k < V; ++k) sum[k] += x ? widen(a.v[k]) * widen(b.v[k]) : widen(a.v[k]);
  }
};
/// sum (B, C) = over each group's rows, of dy x (or dy)
template <class T>
void sum_products_by_group(Context<Cuda>& ctx, View<T> sum, const T* dy, const T* x,
                           const std::vector<int64_t>& starts) {
  const int64_t B = sum.rows(), C = sum.cols();
  const auto on_device = ctx.upload(starts);
  const RowProducts<T> of{dy, x, C};
  if (rows_aligned16<T>(C, dy, x)) sum_groups<pack_size<T>, accumulate_t<T>>(ctx, of, sum.data, on_device.get(), B, C);
  else sum_groups<1, accumulate_t<T>>(ctx, of, sum.data, on_device.get(), B, C);
}

}  // namespace detail

template <Scalar T>
void modulate_forward(Context<Cuda>& ctx,
                      View<T> y,    // (N, C)
                      In<T> x,      // (N, C)
                      In<T> scale,  // (B, C)
                      In<T> shift,  // (B, C)
                      const std::vector<int64_t>& starts) {
  detail::map_groups(ctx, detail::Modulate{}, y, x.data, static_cast<const T*>(nullptr), starts, scale.data,
                     shift.data);
}

template <Scalar T>
void modulate_backward(Context<Cuda>& ctx,
                       View<T> dx,      // (N, C)  assigned
                       View<T> dscale,  // (B, C)  assigned
                       View<T> dshift,  // (B, C)  assigned
                       In<T> dy,        // (N, C)
                       In<T> x,         // (N, C)
                       In<T> scale,     // (B, C)
                       const std::vector<int64_t>& starts) {
  const T* const none = nullptr;
  if (dx) detail::map_groups(ctx, detail::ModulateBack{}, dx, dy.data, none, starts, scale.data);
  if (dscale) detail::sum_products_by_group(ctx, dscale, dy.data, x.data, starts);
  if (dshift) detail::sum_products_by_group(ctx, dshift, dy.data, none, starts);
}

template <Scalar T>
void gate_residual_forward(Context<Cuda>& ctx,
                           View<T> z,   // (N, C)
                           In<T> x,     // (N, C)
                           In<T> y,     // (N, C)
                           In<T> gate,  // (B, C)
                           const std::vector<int64_t>& starts) {
  detail::map_groups(ctx, detail::Gate{}, z, x.data, y.data, starts, gate.data);
}

template <Scalar T>
void gate_residual_backward(Context<Cuda>& ctx,
                            View<T> dy,     // (N, C)  assigned
                            View<T> dgate,  // (B, C)  assigned
                            In<T> dz,       // (N, C)
                            In<T> y,        // (N, C)
                            In<T> gate,     // (B, C)
                            const std::vector<int64_t>& starts) {
  const T* const none = nullptr;
  if (dy) detail::map_groups(ctx, detail::Product{}, dy, dz.data, none, starts, gate.data);
  if (dgate) detail::sum_products_by_group(ctx, dgate, dz.data, y.data, starts);
}

/// y () = factor sum of x (...)
template <Scalar T> void sum_forward(Context<Cuda>& ctx, View<T> y, In<T> x, double factor) {
  detail::sum_all(ctx, detail::Same{}, y.data, factor, x.count(), x.data);
}
/// dx (...) = factor dy ()
template <Scalar T> void sum_backward(Context<Cuda>& ctx, View<T> dx, In<T> dy, double factor) {
  if (dx) detail::map(ctx, detail::ScalarTimes<T>{dy.data, static_cast<accumulate_t<T>>(factor)}, dx.count(), dx.data);
}

/// y () = mean of (x - target)^2, both (...)
template <Scalar T> void mean_squared_error_forward(Context<Cuda>& ctx, View<T> y, In<T> x, In<T> target) {
  detail::sum_all(ctx, detail::SquaredDifference{}, y.data, 1 / static_cast<double>(x.count()), x.count(), x.data,
                  target.data);
}
/// dx (...) = dy () 2 (x - target) / count and dtarget (...) = -dx, both assigned
template <Scalar T>
void mean_squared_error_backward(Context<Cuda>& ctx, View<T> dx, View<T> dtarget, In<T> dy, In<T> x, In<T> target) {
  const auto factor = static_cast<accumulate_t<T>>(2 / static_cast<double>(x.count()));
  if (dx) detail::map(ctx, detail::ScalarTimes<T>{dy.data, factor}, dx.count(), dx.data, x.data, target.data);
  if (dtarget)
    detail::map(ctx, detail::ScalarTimes<T>{dy.data, -factor}, dtarget.count(), dtarget.data, x.data, target.data);
}

}  // namespace ft::inline FTLIB_ABI
