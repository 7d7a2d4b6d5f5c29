// cuda/pack.cuda.cuh: elements that kernels load and store 16 bytes at a time, and their conversion to and from the
// type that sums are kept in.
#pragma once
#include <ftlib/core/dtype.hpp>           // bfloat16, half, accumulate_t
#include <ftlib/tensor/context.cuda.cuh>  // Context<Cuda>

#include <algorithm>  // std::min
#include <concepts>   // std::same_as
#include <cstdint>    // std::uintptr_t

// Without the toolkit's global name `half`, which would make ft::half ambiguous under `using namespace ft`.
#pragma push_macro("CUDA_NO_HALF")
#undef CUDA_NO_HALF
#define CUDA_NO_HALF
#include <cuda_bf16.h>  // __float2bfloat16_rn
#include <cuda_fp16.h>  // __float2half_rn
#pragma pop_macro("CUDA_NO_HALF")

namespace ft::inline FTLIB_ABI::detail {

/// V elements in a row. 16 bytes of them are one load or store; more are several.
template <class T, int V> struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Pack { T v[V]; };
/// Elements of a pack where all pointers are aligned: 16 bytes of the smallest of the types.
template <class... Ts> inline constexpr int pack_size = static_cast<int>(16 / std::min({sizeof(Ts)...}));

template <int V, class T> __device__ __forceinline__ Pack<T, V> load(const T* p) {
  return *reinterpret_cast<const Pack<T, V>*>(p);
}
template <class T, int V> __device__ __forceinline__ void store(T* p, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(p) = pack;
}

/// Whether each pointer is a multiple of 16 bytes; null is.
template <class... Ts> bool aligned16(const Ts*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) | ...) & 15u) == 0;
}
/// Whether rows of C elements of T may be loaded in packs of pack_size<T>.
template <class T, class... Ts> bool rows_aligned16(int64_t C, const Ts*... p) {
  return C % pack_size<T> == 0 && aligned16(p...);
}

template <class T> __device__ auto widen(T x) {
  if constexpr (std::same_as<T, bfloat16>) return __bfloat162float(__ushort_as_bfloat16(x.bits));
  else if constexpr (std::same_as<T, half>) return __half2float(__ushort_as_half(x.bits));
  else return x;
}
template <class T, class A> __device__ T narrow(A x) {
  if constexpr (std::same_as<T, bfloat16>) {
    T y;
    y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(x)));
    return y;
  } else if constexpr (std::same_as<T, half>) {
    T y;
    y.bits = __half_as_ushort(__float2half_rn(static_cast<float>(x)));
    return y;
  } else {
    return static_cast<T>(x);
  }
}

inline constexpr int block_size = 256;  // threads of a block, unless a kernel says otherwise

// y[i] = f(x[i]...), V elements a thread and load: 16 bytes, or V = 1 where a pointer is not 16-byte aligned; the last
// thread takes what is left. Moves each array once: bound by memory.
template <int V, class F, class Y, class... X>
__global__ void __launch_bounds__(block_size) map_kernel(F f, int64_t count, Y* y, const X*... x) {
  const int64_t i = (blockIdx.x * int64_t{block_size} + threadIdx.x) * V;
  if (i + V <= count) {
    [&](const auto&... in) {
      Pack<Y, V> out;
      for (int k = 0; k < V; ++k) out.v[k] = narrow<Y>(f(widen(in.v[k])...));
      store(y + i, out);
    }(load<V>(x + i)...);
  } else {
    for (int64_t k = i; k < count; ++k) y[k] = narrow<Y>(f(widen(x[k])...));
  }
}
/// y = f(x...) element by element; all contiguous. f works in the type that sums are kept in.
template <class F, class Y, class... X> void map(Context<Cuda>& ctx, F f, int64_t count, Y* y, const X*... x) {
  constexpr int V = pack_size<Y, X...>;
  const bool packs = aligned16(y, x...);
  launch(packs ? map_kernel<V, F, Y, X...> : map_kernel<1, F, Y, X...>,
         grid_of(ceil_div(count, block_size * int64_t{packs ? V : 1})), block_size, 0, ctx.stream(), f, count, y, x...);
}

}  // namespace ft::inline FTLIB_ABI::detail
