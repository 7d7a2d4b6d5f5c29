// ops/array.cpu.hpp: pieces of memory as Eigen arrays, for arithmetic that Eigen vectorises.
#pragma once
#include <ftlib/tensor/copy.cpu.hpp>  // elementwise_grain, parallel_for

#include <cstdint>      // std::int64_t
#include <Eigen/Core>   // Eigen::Array
#include <type_traits>  // std::is_const_v

namespace ft::inline FTLIB_ABI::detail {

/// n elements at p as an Eigen array.
template <class T> auto array(T* p, int64_t n) {
  using Array = Eigen::Array<std::remove_const_t<T>, Eigen::Dynamic, 1>;
  return Eigen::Map<std::conditional_t<std::is_const_v<T>, const Array, Array>>(p, n);
}

/// f(y, xs...) on matching stretches of contiguous memory, as Eigen arrays, in parallel.
template <class F, class... Ts> void for_each_stretch(Context<Cpu>& ctx, int64_t count, F f, Ts*... ps) {
  parallel_for(ctx.pool(), count, elementwise_grain,
               [&](int64_t begin, int64_t end) { f(array(ps + begin, end - begin)...); });
}

}  // namespace ft::inline FTLIB_ABI::detail
