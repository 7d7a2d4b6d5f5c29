// ops/dropout.cpu.hpp: dropout on the CPU. Forward and backward are one function, which draws the mask each time.
#pragma once
#include <ftlib/core/random.hpp>         // philox
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>  // std::min

namespace ft::inline FTLIB_ABI {

/// y = x / (1 - p) where a number in [0, 1) is at least p, else 0. Element i has word i % 4 of
/// philox(seed, first + i / 4, 1).
template <Scalar T>
void dropout_mask(Context<Cpu>& ctx,
                  View<T> y,  // (...)  assigned
                  In<T> x,    // (...)
                  float p, uint64_t seed, uint64_t first) {
  const int64_t count = x.count();
  const T keep = 1 / (1 - static_cast<T>(p));
  parallel_for(ctx.pool(), (count + 3) / 4, 512, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const auto words = philox(seed, first + static_cast<uint64_t>(b), 1);
      for (int64_t i = 4 * b; i < std::min(count, 4 * b + 4); ++i)
        y.data[i] = to_unit(words[static_cast<std::size_t>(i % 4)]) < p ? T(0) : keep * x.data[i];
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
