// optim/adamw.cuda.cuh: one AdamW step of one parameter on the GPU, in one kernel.
#pragma once
#include <ftlib/optim/adamw_factors.hpp>  // AdamWFactors
#include <ftlib/tensor/pack.cuda.cuh>     // load, store
#include <ftlib/tensor/view.hpp>          // View, In

#include <cmath>  // std::sqrt

namespace ft::inline FTLIB_ABI {

namespace detail {

template <class A> struct AdamWStep {
  A keep, step_size, new1, beta2, new2, correction, eps;

  __device__ void operator()(A& w, A& m, A& v, A g) const {
    m += new1 * (g - m);
    v = beta2 * v + new2 * g * g;
    w = keep * w - step_size * m / (std::sqrt(v) / correction + eps);
  }
};

// V elements a thread and load. Reads w, m, v and g and writes the first three once: 28 bytes an element of float.
template <class T, int V>
__global__ void __launch_bounds__(block_size)
    adamw_kernel(T* w, accumulate_t<T>* m, accumulate_t<T>* v, const accumulate_t<T>* g, int64_t count,
                 AdamWStep<accumulate_t<T>> step) {
  using A = accumulate_t<T>;
  const int64_t i = (blockIdx.x * int64_t{block_size} + threadIdx.x) * V;
  if (i + V <= count) {
    auto ws = load<V>(w + i);
    auto ms = load<V>(m + i), vs = load<V>(v + i);
    const auto gs = load<V>(g + i);
    for (int k = 0; k < V; ++k) {
      A wide = widen(ws.v[k]);
      step(wide, ms.v[k], vs.v[k], gs.v[k]);
      ws.v[k] = narrow<T>(wide);
    }
    store(w + i, ws);
    store(m + i, ms);
    store(v + i, vs);
  } else {
    for (int64_t k = i; k < count; ++k) {
      A wide = widen(w[k]);
      step(wide, m[k], v[k], g[k]);
      w[k] = narrow<T>(wide);
    }
  }
}

}  // namespace detail

/// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
/// w = keep w - step_size m / (sqrt(v) / sqrt_correction + eps).  Views are contiguous and of one shape.
template <Scalar T>
void adamw_update(Context<Cuda>& ctx,
                  View<T> w,                // any shape
                  View<accumulate_t<T>> m,  // first moment
                  View<accumulate_t<T>> v,  // second moment
                  In<accumulate_t<T>> g,    // gradient
                  const AdamWFactors& f) {
  using A = accumulate_t<T>;
  constexpr int V = detail::pack_size<T>;
  const bool packs = detail::aligned16(w.data, m.data, v.data, g.data);
  const detail::AdamWStep<A> step{A(f.keep),      A(f.step_size),       A(1 - f.beta1), A(f.beta2),
                                  A(1 - f.beta2), A(f.sqrt_correction), A(f.eps)};
  launch(packs ? detail::adamw_kernel<T, V> : detail::adamw_kernel<T, 1>,
         detail::grid_of(detail::ceil_div(w.count(), detail::block_size * int64_t{packs ? V : 1})), detail::block_size,
         0, ctx.stream(), w.data, m.data, v.data, g.data, w.count(), step);
}

}  // namespace ft::inline FTLIB_ABI
