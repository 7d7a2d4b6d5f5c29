// ops/rope.cpu.hpp: rotary positions on the CPU. Forward and backward are one function; backward turns the other way.
#pragma once
#include <ftlib/ops/kinds.hpp>           // RopePairing
#include <ftlib/ops/simd.cpu.hpp>        // for_vectors
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>  // std::copy

namespace ft::inline FTLIB_ABI {

template <Scalar T>
void rope_turn(Context<Cpu>& ctx,
               View<T> y,             // (N, H, hd)  assigned
               In<T> x,               // (N, H, hd)  any stride of N; the last two axes dense
               In<T> cos,             // (P, R / 2)
               In<T> sin,             // (P, R / 2)
               In<int32_t> position,  // (N)         row of the table for each token
               RopePairing pairing,
               T direction) {  // 1 forward, -1 backward
  const int64_t N = x.shape[0], H = x.shape[1], hd = x.shape[2], P = cos.shape[0], half = cos.shape[1];
  for (int64_t n = 0; n < N; ++n)
    if (position.data[n] < 0 || position.data[n] >= P)
      throw Error(str("rope: position ", position.data[n], " of token ", n, " is outside the table of ", P, " rows"),
                  "Rotary::table makes it longer.");
  parallel_for(ctx.pool(), N, 1 + 4096 / (H * hd + 1), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T *const c = cos.data + position.data[n] * half, *const s = sin.data + position.data[n] * half;
      for (int64_t h = 0; h < H; ++h) {
        const T* from = x.data + n * x.strides[0] + h * hd;
        T* to = y.data + (n * H + h) * hd;
        if (pairing == RopePairing::half_split) {
          detail::for_vectors<T>(0, half, [&](auto at) {
            const auto a = at(from), b = at(from + half), turn = direction * at(s);
            at.store(to, a * at(c) - b * turn);
            at.store(to + half, b * at(c) + a * turn);
          });
        } else {
          for (int64_t i = 0; i < half; ++i) {
            const T a = from[2 * i], b = from[2 * i + 1], si = direction * s[i];
            to[2 * i] = a * c[i] - b * si;
            to[2 * i + 1] = b * c[i] + a * si;
          }
        }
        std::copy(from + 2 * half, from + hd, to + 2 * half);
      }
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
