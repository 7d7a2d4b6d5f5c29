// ops/activation.cuda.cuh: activations and their gated forms on the GPU, forward and backward.
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>  // map, load, store
#include <ftlib/ops/kinds.hpp>       // Silu, Gelu, ...
#include <ftlib/tensor/view.hpp>     // View

#include <cmath>    // std::exp, std::erfc, std::tanh
#include <numbers>  // std::numbers::sqrt2_v

namespace ft::inline FTLIB_ABI {

namespace detail {

/// f(x) and f'(x).
template <class A> struct ActivatedValue { A f, df; };
template <class A> __device__ ActivatedValue<A> activate(Silu, A x) {
  const A s = 1 / (1 + std::exp(-x));
  return {x * s, s * (1 + x * (1 - s))};
}
template <class A> __device__ ActivatedValue<A> activate(GeluTanh, A x) {
  constexpr A cubic = A(0.044715), slope = A(2 * 0.79788456080286535588);  // 2 sqrt(2 / pi)
  const A s = 1 / (1 + std::exp(-slope * x * (1 + cubic * x * x))), f = x * s;
  return {f, s + f * (1 - s) * slope * (1 + 3 * cubic * x * x)};
}
template <class A> __device__ ActivatedValue<A> activate(Gelu, A x) {
  const A phi = A(0.5) * std::erfc(-x * (1 / std::numbers::sqrt2_v<A>));  // erfc keeps its digits where 1 + erf cancels
  return {x * phi, phi + x * std::exp(A(-0.5) * x * x) * A(0.39894228040143267794)};
}
template <class A> __device__ ActivatedValue<A> activate(Relu, A x) { return {x > 0 ? x : A(0), x > 0 ? A(1) : A(0)}; }
template <class A> __device__ ActivatedValue<A> activate(Sigmoid, A x) {
  const A s = 1 / (1 + std::exp(-x));
  return {s, s * (1 - s)};
}
template <class A> __device__ ActivatedValue<A> activate(Tanh, A x) {
  const A e = std::exp(A(-2) * std::abs(x));  // by which the slope keeps its digits where 1 - f^2 cancels
  return {std::tanh(x), 4 * e / ((1 + e) * (1 + e))};
}
template <class A> __device__ ActivatedValue<A> activate(LimitedSilu, A x) {
  const A g = x < 7 ? x : A(7), s = 1 / (1 + std::exp(A(-1.702) * g));
  return {g * s, x < 7 ? s * (1 + A(1.702) * g * (1 - s)) : A(0)};
}
template <class A> __device__ ActivatedValue<A> activate(LimitedUp, A x) {
  return {(x < 7 ? x > -7 ? x : A(-7) : A(7)) + 1, x < 7 && x > -7 ? A(1) : A(0)};
}

template <class F> struct Forward {
  template <class A> __device__ A operator()(A x) const { return activate(F{}, x).f; }
  template <class A> __device__ A operator()(A gate, A up) const { return activate(F{}, gate).f * up; }
};
template <class F> struct Backward {
  template <class A> __device__ A operator()(A dy, A x) const { return dy * activate(F{}, x).df; }
};

// dgate = dy up f'(gate), dup = dy f(gate); a null one is not wanted. V elements a thread and load. Moves 5 arrays
// once.
template <int V, class F, class T>
__global__ void __launch_bounds__(block_size)
    gated_backward_kernel(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t count) {
  const int64_t i = (blockIdx.x * int64_t{block_size} + threadIdx.x) * V;
  if (i + V <= count) {
    const auto dys = load<V>(dy + i), gates = load<V>(gate + i), ups = load<V>(up + i);
    Pack<T, V> to_gate, to_up;
    for (int k = 0; k < V; ++k) {
      const auto a = activate(F{}, widen(gates.v[k]));
      to_gate.v[k] = narrow<T>(widen(dys.v[k]) * a.df * widen(ups.v[k]));
      to_up.v[k] = narrow<T>(widen(dys.v[k]) * a.f);
    }
    if (dgate) store(dgate + i, to_gate);
    if (dup) store(dup + i, to_up);
  } else {
    for (int64_t k = i; k < count; ++k) {
      const auto a = activate(F{}, widen(gate[k]));
      if (dgate) dgate[k] = narrow<T>(widen(dy[k]) * a.df * widen(up[k]));
      if (dup) dup[k] = narrow<T>(widen(dy[k]) * a.f);
    }
  }
}

}  // namespace detail

template <class F, Scalar T>
void activation_forward(Context<Cuda>& ctx, F,
                        View<T> y,  // (...)
                        In<T> x) {  // (...)
  detail::map(ctx, detail::Forward<F>{}, x.count(), y.data, x.data);
}

template <class F, Scalar T>
void activation_backward(Context<Cuda>& ctx, F,
                         View<T> dx,  // (...)  assigned
                         In<T> dy,    // (...)
                         In<T> x) {   // (...)
  if (dx) detail::map(ctx, detail::Backward<F>{}, x.count(), dx.data, dy.data, x.data);
}

template <class F, Scalar T>
void gated_forward(Context<Cuda>& ctx, F,
                   View<T> y,   // (...)
                   In<T> gate,  // (...)
                   In<T> up) {  // (...)
  detail::map(ctx, detail::Forward<F>{}, gate.count(), y.data, gate.data, up.data);
}

template <class F, Scalar T>
void gated_backward(Context<Cuda>& ctx, F,
                    View<T> dgate,  // (...)  assigned
                    View<T> dup,    // (...)  assigned
                    In<T> dy,       // (...)
                    In<T> gate,     // (...)
                    In<T> up) {     // (...)
  if (!dgate && !dup) return;
  constexpr int V = detail::pack_size<T>;
  const bool packs = detail::aligned16(dgate.data, dup.data, dy.data, gate.data, up.data);
  launch(packs ? detail::gated_backward_kernel<V, F, T> : detail::gated_backward_kernel<1, F, T>,
         detail::grid_of(detail::ceil_div(gate.count(), detail::block_size * int64_t{packs ? V : 1})),
         detail::block_size, 0, ctx.stream(), dgate.data, dup.data, dy.data, gate.data, up.data, gate.count());
}

}  // namespace ft::inline FTLIB_ABI
