// src/cpu_common.cpp: kernels on the CPU that wait for memory or are rare, compiled once: moving numbers, and the
// updates of weights of 16 bits.
#include <ftlib/cpu_runtime.hpp>
#include <ftlib/optim/adamw.cpu.hpp>
#include <ftlib/optim/adamw8bit.cpu.hpp>
#include <ftlib/optim/ema.cpu.hpp>
#include <ftlib/optim/lion.cpu.hpp>
#include <ftlib/tensor/copy.cpu.hpp>

namespace ft::inline FTLIB_ABI {
#define FTLIB_COPY(TO, FROM) template void copy<TO, FROM>(Context<Cpu>&, View<TO>, View<const FROM>);
#define FTLIB_MOVE(T)                                                 \
  template void fill<T>(Context<Cpu>&, View<T>, T);                   \
  template void accumulate<T>(Context<Cpu>&, View<T>, View<const T>); \
  FTLIB_COPY(T, T)
#define FTLIB_UPDATE(T)                                                                                          \
  template void adamw_update<T>(Context<Cpu>&, std::span<const AdamWItem<T>>, const Verdict*, Master, uint64_t); \
  template void lion_update<T>(Context<Cpu>&, std::span<const LionItem<T>>, const Verdict*, Master, uint64_t);   \
  template void adamw8bit_update<T>(Context<Cpu>&, std::span<const AdamW8bitItem<T>>, const Verdict*, Master,    \
                                    uint64_t);                                                                   \
  template void move_towards<T>(Context<Cpu>&, View<float>, View<const T>, double);
FTLIB_MOVE(float)
FTLIB_MOVE(double)
FTLIB_MOVE(bfloat16)
FTLIB_MOVE(half)
#define FTLIB_CONVERT(A, B) FTLIB_COPY(A, B) FTLIB_COPY(B, A)
FTLIB_CONVERT(float, double)
FTLIB_CONVERT(float, bfloat16)
FTLIB_CONVERT(float, half)
FTLIB_CONVERT(double, bfloat16)
FTLIB_CONVERT(double, half)
FTLIB_UPDATE(bfloat16)
FTLIB_UPDATE(half)
template void fill<int32_t>(Context<Cpu>&, View<int32_t>, int32_t);
FTLIB_COPY(int32_t, int32_t)
}  // namespace ft::inline FTLIB_ABI
