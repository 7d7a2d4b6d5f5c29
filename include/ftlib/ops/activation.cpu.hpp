// ops/activation.cpu.hpp: activations and their gated forms on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/elementwise.cpu.hpp>  // for_all_vectors
#include <ftlib/ops/kinds.hpp>            // Silu, Gelu, ...
#include <ftlib/ops/simd.cpu.hpp>         // exponential
#include <ftlib/tensor/view.hpp>          // View

#include <cmath>    // std::erfc, std::tanh
#include <numbers>  // std::numbers::sqrt2

namespace ft::inline FTLIB_ABI {

namespace detail {
inline namespace FTLIB_SIMD {

inline constexpr int64_t activation_grain = 4096;  // elements

/// What an activation gives of a vector of elements: f(x), and f'(x), which costs nothing where nobody reads it.
template <class T> struct Activated { Vec<T> f, slope; };

/// x s with s = 1 / (1 + e^-x);  f' = s (1 + x (1 - s))
template <class T> [[gnu::always_inline]] inline Activated<T> activate(Silu, Vec<T> x) {
  const Vec<T> s = T(1) / (T(1) + exponential<T>(-x));
  return {x * s, s * (T(1) + x * (T(1) - s))};
}

/// 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3). Since 0.5 (1 + tanh u) is the logistic function of 2 u,
/// it needs one exponential.                                                                      arXiv:1606.08415
template <class T> [[gnu::always_inline]] inline Activated<T> activate(GeluTanh, Vec<T> x) {
  constexpr T cubic = T(0.044715), slope = T(2 * 0.79788456080286535588);  // 2 sqrt(2 / pi)
  const Vec<T> square = x * x, s = T(1) / (T(1) + exponential<T>(-slope * x * (T(1) + cubic * square))), f = x * s;
  return {f, s + f * (T(1) - s) * slope * (T(1) + 3 * cubic * square)};
}

/// x Phi(x), Phi the normal distribution;  f' = Phi(x) + x e^(-x^2 / 2) / sqrt(2 pi)
template <class T> [[gnu::always_inline]] inline Activated<T> activate(Gelu, Vec<T> x) {
  const Vec<T> bell = exponential<T>(T(-0.5) * (x * x));
  Vec<T> phi;
  if constexpr (std::same_as<T, float>) {
    // erfc(z) = e^(-z^2) t q(t), t = 1 / (1 + 0.4 z), z >= 0. q is a fit of degree 8 by iteratively reweighted least
    // squares over z in [0, 10]: relative error 6e-8, 4e-7 in float arithmetic. erfc keeps its digits where 1 + erf
    // cancels.
    const Vec<T> t = T(1) / (T(1) + T(0.4 / std::numbers::sqrt2) * absolute(x));
    Vec<T> q = Vec<T>{} + 4.125327456e-02f;
    for (const float c : {-1.403203593e-01f, 8.398955894e-02f, 8.796180584e-02f, 7.975818922e-02f, 1.933925102e-01f,
                          2.018877614e-01f, 2.264430884e-01f, 2.256342324e-01f})
      q = q * t + c;
    phi = T(0.5) * bell * t * q;
    phi = x < T(0) ? phi : T(1) - phi;
  } else {
    T v[Simd<T>::lanes];
    store(v, x);
    for (T& e : v) e = T(0.5) * std::erfc(-e / std::numbers::sqrt2_v<T>);
    phi = load<Vec<T>>(v);
  }
  return {x * phi, phi + x * bell * T(0.39894228040143267794)};
}

/// max(x, 0);  f'(0) = 0
template <class T> [[gnu::always_inline]] inline Activated<T> activate(Relu, Vec<T> x) {
  const Vec<T> zero{};
  return {larger(x, zero), x > zero ? zero + T(1) : zero};
}

/// s = 1 / (1 + e^-x);  f' = s (1 - s)
template <class T> [[gnu::always_inline]] inline Activated<T> activate(Sigmoid, Vec<T> x) {
  const Vec<T> s = T(1) / (T(1) + exponential<T>(-x));
  return {s, s * (T(1) - s)};
}

/// tanh x = (1 - e) / (1 + e), e = e^(-2 |x|), with the sign of x; a series where that cancels. f' = 4 e / (1 + e)^2,
/// which keeps its digits where 1 - f^2 cancels.
template <class T> [[gnu::always_inline]] inline Activated<T> activate(Tanh, Vec<T> x) {
  const Vec<T> zero{}, size = absolute(x), e = exponential<T>(T(-2) * size);
  Vec<T> f;
  if constexpr (std::same_as<T, float>) {
    const Vec<T> far = (T(1) - e) / (T(1) + e);
    const Vec<T> square = x * x;
    const Vec<T> near =
        x *
        (T(1) + square * (T(-1.0 / 3) + square * (T(2.0 / 15) + square * (T(-17.0 / 315) + square * T(62.0 / 2835)))));
    f = size < zero + T(0.3) ? near : x < zero ? -far : far;
  } else {
    T v[Simd<T>::lanes];
    store(v, x);
    for (T& one : v) one = std::tanh(one);
    f = load<Vec<T>>(v);
  }
  return {f, T(4) * e / ((T(1) + e) * (T(1) + e))};
}

/// g s with g = min(x, 7) and s = 1 / (1 + e^(-1.702 g));  f' = s (1 + 1.702 g (1 - s)), 0 from 7 on
template <class T> [[gnu::always_inline]] inline Activated<T> activate(LimitedSilu, Vec<T> x) {
  const Vec<T> zero{}, limit = zero + T(7), g = x < limit ? x : limit;
  const Vec<T> s = T(1) / (T(1) + exponential<T>(T(-1.702) * g));
  return {g * s, x < limit ? s * (T(1) + T(1.702) * g * (T(1) - s)) : zero};
}

/// min(max(x, -7), 7) + 1;  f' = 1, 0 where |x| >= 7
template <class T> [[gnu::always_inline]] inline Activated<T> activate(LimitedUp, Vec<T> x) {
  const Vec<T> zero{}, limit = zero + T(7), x7 = x < limit ? larger(x, -limit) : limit;
  return {x7 + T(1), absolute(x) < limit ? zero + T(1) : zero};
}

}  // namespace FTLIB_SIMD
}  // namespace detail

template <class F, Scalar T>
void activation_forward(Context<Cpu>& ctx, F,
                        View<T> y,  // (...)
                        In<T> x) {  // (...)
  detail::for_all_vectors<T>(ctx, x.count(), detail::activation_grain,
                             [&](auto at) { at.store(y.data, detail::activate<T>(F{}, at(x.data)).f); });
}

template <class F, Scalar T>
void activation_backward(Context<Cpu>& ctx, F,
                         View<T> dx,  // (...)  assigned
                         In<T> dy,    // (...)
                         In<T> x) {   // (...)
  if (!dx) return;
  detail::for_all_vectors<T>(ctx, x.count(), detail::activation_grain, [&](auto at) {
    at.store(dx.data, at(dy.data) * detail::activate<T>(F{}, at(x.data)).slope);
  });
}

template <class F, Scalar T>
void gated_forward(Context<Cpu>& ctx, F,
                   View<T> y,   // (...)
                   In<T> gate,  // (...)
                   In<T> up) {  // (...)
  detail::for_all_vectors<T>(ctx, gate.count(), detail::activation_grain, [&](auto at) {
    at.store(y.data, detail::activate<T>(F{}, at(gate.data)).f * at(up.data));
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
  detail::for_all_vectors<T>(ctx, gate.count(), detail::activation_grain, [&](auto at) {
    const auto a = detail::activate<T>(F{}, at(gate.data));
    const auto dyv = at(dy.data);
    if (dgate) at.store(dgate.data, dyv * a.slope * at(up.data));
    if (dup) at.store(dup.data, dyv * a.f);
  });
}

}  // namespace ft::inline FTLIB_ABI
