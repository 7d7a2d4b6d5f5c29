// ops/activation.cpu.hpp: activations and their gated forms on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/kinds.hpp>           // Silu, Gelu, GeluTanh, Relu
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>    // std::min
#include <cmath>        // std::erf
#include <Eigen/Core>   // vectorised exp
#include <numbers>      // std::numbers::pi
#include <type_traits>  // std::is_const_v

namespace ft::inline FTLIB_ABI {

namespace detail {

// Each activation gives f(x) and, where asked, f'(x) of a chunk of elements. A chunk fits in L1, so that what several
// formulas share (an exponential) is computed once and kept there.
inline constexpr int activation_chunk = 128;
template <Scalar T> using ActivationChunk = Eigen::Array<T, activation_chunk, 1>;

/// x s with s = 1 / (1 + e^-x);  f' = s (1 + x (1 - s))
template <Scalar T> void apply(Silu, const ActivationChunk<T>& x, ActivationChunk<T>& f, ActivationChunk<T>* df) {
  const ActivationChunk<T> s = (T(1) + (-x).exp()).inverse();
  f = x * s;
  if (df) *df = s * (T(1) + x * (T(1) - s));
}

/// 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3). Since 0.5 (1 + tanh u) is the logistic function of 2 u,
/// it needs one exponential.                                                                      arXiv:1606.08415
template <Scalar T> void apply(GeluTanh, const ActivationChunk<T>& x, ActivationChunk<T>& f, ActivationChunk<T>* df) {
  constexpr T cubic = T(0.044715), slope = T(2 * 0.79788456080286535588);  // 2 sqrt(2 / pi)
  const ActivationChunk<T> s = (T(1) + (-slope * x * (T(1) + cubic * x.square())).exp()).inverse();
  f = x * s;
  if (df) *df = s + f * (T(1) - s) * slope * (T(1) + 3 * cubic * x.square());
}

/// x Phi(x), Phi the normal distribution;  f' = Phi(x) + x e^(-x^2 / 2) / sqrt(2 pi)
template <Scalar T> void apply(Gelu, const ActivationChunk<T>& x, ActivationChunk<T>& f, ActivationChunk<T>* df) {
  const ActivationChunk<T> bell = (T(-0.5) * x.square()).exp();
  ActivationChunk<T> phi;
  if constexpr (std::same_as<T, float>) {
    // erfc(z) = e^(-z^2) t q(t), t = 1 / (1 + 0.4 z), z >= 0. q is a fit of degree 8 by iteratively reweighted least
    // squares over z in [0, 10]: relative error 6e-8, 4e-7 in float arithmetic. erfc keeps its digits where 1 + erf
    // cancels.
    const ActivationChunk<T> t = (T(1) + T(0.4 / std::numbers::sqrt2) * x.abs()).inverse();
    ActivationChunk<T> q = ActivationChunk<T>::Constant(4.125327456e-02f);
    for (const float c : {-1.403203593e-01f, 8.398955894e-02f, 8.796180584e-02f, 7.975818922e-02f, 1.933925102e-01f,
                          2.018877614e-01f, 2.264430884e-01f, 2.256342324e-01f})
      q = q * t + c;
    phi = T(0.5) * bell * t * q;
    phi = (x < T(0)).select(phi, T(1) - phi);
  } else {
    phi = x.unaryExpr([](T v) { return T(0.5) * std::erfc(-v / std::numbers::sqrt2_v<T>); });
  }
  f = x * phi;
  if (df) *df = phi + x * bell * T(0.39894228040143267794);
}

/// max(x, 0);  f'(0) = 0
template <Scalar T> void apply(Relu, const ActivationChunk<T>& x, ActivationChunk<T>& f, ActivationChunk<T>* df) {
  f = x.max(T(0));
  if (df) *df = (x > T(0)).template cast<T>();
}

template <Scalar T> ActivationChunk<T> load_chunk(const T* p, int64_t n) {
  if (n == activation_chunk) return Eigen::Map<const ActivationChunk<T>>(p);
  ActivationChunk<T> x = ActivationChunk<T>::Zero();
  x.head(n) = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>(p, n);
  return x;
}
template <Scalar T> void store_chunk(T* p, int64_t n, const ActivationChunk<T>& x) {
  if (n == activation_chunk) Eigen::Map<ActivationChunk<T>>{p} = x;
  else Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>(p, n) = x.head(n);
}
/// body(first, n) for each chunk of count elements, the last one shorter.
template <class Body> void for_each_chunk(Context<Cpu>& ctx, int64_t count, Body body) {
  parallel_for(ctx.pool(), (count + activation_chunk - 1) / activation_chunk, 32, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      body(c * activation_chunk, std::min<int64_t>(activation_chunk, count - c * activation_chunk));
  });
}
}  // namespace detail

template <class F, Scalar T>
void activation_forward(Context<Cpu>& ctx, F,
                        View<T> y,  // (...)
                        In<T> x) {  // (...)
  detail::for_each_chunk(ctx, x.count(), [&](int64_t i, int64_t n) {
    detail::ActivationChunk<T> f;
    detail::apply(F{}, detail::load_chunk<T>(x.data + i, n), f, static_cast<detail::ActivationChunk<T>*>(nullptr));
    detail::store_chunk(y.data + i, n, f);
  });
}

template <class F, Scalar T>
void activation_backward(Context<Cpu>& ctx, F,
                         View<T> dx,  // (...)  assigned
                         In<T> dy,    // (...)
                         In<T> x) {   // (...)
  if (!dx) return;
  detail::for_each_chunk(ctx, x.count(), [&](int64_t i, int64_t n) {
    detail::ActivationChunk<T> f, df;
    detail::apply(F{}, detail::load_chunk<T>(x.data + i, n), f, &df);
    detail::store_chunk<T>(dx.data + i, n, df * detail::load_chunk<T>(dy.data + i, n));
  });
}

template <class F, Scalar T>
void gated_forward(Context<Cpu>& ctx, F,
                   View<T> y,   // (...)
                   In<T> gate,  // (...)
                   In<T> up) {  // (...)
  detail::for_each_chunk(ctx, gate.count(), [&](int64_t i, int64_t n) {
    detail::ActivationChunk<T> f;
    detail::apply(F{}, detail::load_chunk<T>(gate.data + i, n), f, static_cast<detail::ActivationChunk<T>*>(nullptr));
    detail::store_chunk<T>(y.data + i, n, f * detail::load_chunk<T>(up.data + i, n));
  });
}

template <class F, Scalar T>
void gated_backward(Context<Cpu>& ctx, F,
                    View<T> dgate,  // (...)  assigned
                    View<T> dup,    // (...)  assigned
                    In<T> dy,       // (...)
                    In<T> gate,     // (...)
                    In<T> up) {     // (...)
  if (!dgate && !dup) return;
  detail::for_each_chunk(ctx, gate.count(), [&](int64_t i, int64_t n) {
    detail::ActivationChunk<T> f, df;
    detail::apply(F{}, detail::load_chunk<T>(gate.data + i, n), f, &df);
    const detail::ActivationChunk<T> dyc = detail::load_chunk<T>(dy.data + i, n);
    if (dgate) detail::store_chunk<T>(dgate.data + i, n, dyc * df * detail::load_chunk<T>(up.data + i, n));
    if (dup) detail::store_chunk<T>(dup.data + i, n, dyc * f);
  });
}

}  // namespace ft::inline FTLIB_ABI
