// tensor/copy.cpu.hpp: moving numbers on the CPU: fill, strided copy, conversion, accumulation.
#pragma once
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

namespace ft::inline FTLIB_ABI {

namespace detail {
inline constexpr int64_t elementwise_grain = 1 << 14;  // elements a thread should have before another is woken

/// f(to, from) over all elements in row-major order, any strides.
template <class To, class From, class F>
void for_each_pair(Context<Cpu>& ctx, View<To> to, View<const From> from, F f) {
  if (to.contiguous() && from.contiguous()) {
    parallel_for(ctx.pool(), to.count(), elementwise_grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(to.data[i], from.data[i]);
    });
    return;
  }
  const int64_t cols = to.cols(), to_step = to.shape.rank() ? to.strides[-1] : 1,
                from_step = to.shape.rank() ? from.strides[-1] : 1;
  parallel_for(ctx.pool(), to.rows(), std::max<int64_t>(1, elementwise_grain / std::max<int64_t>(1, cols)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t n = begin; n < end; ++n) {
                   int64_t rest = n, to_at = 0, from_at = 0;
                   for (int axis = to.shape.rank() - 2; axis >= 0; --axis) {
                     const int64_t i = rest % to.shape[axis];
                     rest /= to.shape[axis];
                     to_at += i * to.strides[axis];
                     from_at += i * from.strides[axis];
                   }
                   for (int64_t c = 0; c < cols; ++c)
                     f(to.data[to_at + c * to_step], from.data[from_at + c * from_step]);
                 }
               });
}
}  // namespace detail

template <Element T> void fill(Context<Cpu>& ctx, View<T> to, T value) {
  detail::for_each_pair(ctx, to, View<const T>(to), [value](T& y, const T&) { y = value; });
}

/// to = from, of equal shape; converts where the types differ.
template <Element To, Element From> void copy(Context<Cpu>& ctx, View<To> to, View<const From> from) {
  detail::for_each_pair(ctx, to, from, [](To& y, const From& x) {
    if constexpr (std::same_as<To, From>) y = x;
    else if constexpr (std::same_as<From, double> && (std::same_as<To, bfloat16> || std::same_as<To, half>))
      y = To(static_cast<float>(x));
    else if constexpr (std::same_as<To, double> && (std::same_as<From, bfloat16> || std::same_as<From, half>))
      y = static_cast<float>(x);
    else y = static_cast<To>(x);
  });
}

/// to += from, of equal shape.
template <Scalar T> void accumulate(Context<Cpu>& ctx, View<T> to, View<const T> from) {
  detail::for_each_pair(ctx, to, from, [](T& y, const T& x) {
    if constexpr (std::same_as<T, bfloat16> || std::same_as<T, half>)
      y = T(static_cast<float>(y) + static_cast<float>(x));
    else y += x;
  });
}

}  // namespace ft::inline FTLIB_ABI
