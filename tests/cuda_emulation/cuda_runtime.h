// tests/cuda_emulation/cuda_runtime.h: found before the toolkit's file of this name, so that an unchanged *.cuda.cuh
// compiles as plain C++ and its kernels run on the CPU. Types and host functions are declared by the toolkit's headers.
#pragma once
#pragma GCC system_header                            // include_next is an extension
#define cudaLaunchKernelEx toolkit_launch_kernel_ex  // that one forgets the parameters' types
#include_next <cuda_runtime.h>
#undef cudaLaunchKernelEx

#include <bit>          // std::bit_cast
#include <cmath>        // math functions of kernels
#include <cstring>      // std::memcpy
#include <tuple>        // std::tuple
#include <type_traits>  // std::is_integral_v

#include "emulation.hpp"

// A block's threads share one thread of the CPU, and so what is local to that one; blocks run one after another.
// Each variable has pages of its own, so that one past its end is nobody's.
#undef __shared__
#define __shared__ __attribute__((aligned(4096))) thread_local
#define __launch_bounds__(...)

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = cuda_emulation::warp_size;

/// Calls kernel(args...) with each thread of the grid; in a stream that is recorded, when its graph runs.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... args) {
  using Tuple = std::tuple<Parameters...>;
  const auto run = [stream = config->stream, grid = config->gridDim, block = config->blockDim,
                    shared = config->dynamicSmemBytes, kernel](Tuple parameters) {
    const auto call = [](const void* k, void* p) {
      std::apply(reinterpret_cast<void (*)(Parameters...)>(const_cast<void*>(k)), *static_cast<Tuple*>(p));
    };
    return cuda_emulation::run(
        {stream, grid, block, shared, reinterpret_cast<const void*>(kernel), call, &parameters, sizeof parameters});
  };
  if (!cuda_emulation::of_current_device(config->stream)) return cudaErrorInvalidResourceHandle;
  Tuple parameters(static_cast<Parameters>(args)...);
  if (!cuda_emulation::recording(config->stream)) return static_cast<cudaError_t>(run(parameters));
  cuda_emulation::record(config->stream, cuda_emulation::NodeKind::kernel, [=] { return run(parameters); });
  return cudaSuccess;
}

// Each function takes the line it is called from: that is what a report names.
#define FTLIB_WHERE const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()

inline void __syncthreads(FTLIB_WHERE) { cuda_emulation::meet_block(cuda_emulation::BlockOp::sync, 0, {file, line}); }
inline int __syncthreads_count(int predicate, FTLIB_WHERE) {
  return cuda_emulation::meet_block(cuda_emulation::BlockOp::count, predicate, {file, line});
}
inline int __syncthreads_and(int predicate, FTLIB_WHERE) {
  return cuda_emulation::meet_block(cuda_emulation::BlockOp::all, predicate, {file, line});
}
inline int __syncthreads_or(int predicate, FTLIB_WHERE) {
  return cuda_emulation::meet_block(cuda_emulation::BlockOp::any, predicate, {file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, FTLIB_WHERE) {
  cuda_emulation::meet_warp(cuda_emulation::WarpOp::sync, mask, 0, 0, {file, line});
}

namespace cuda_emulation {
template <class T> T shuffle(unsigned mask, T value, int source, Where where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::int64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = meet_warp(WarpOp::shuffle, mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
/// The lane itself where another one would lie outside its group of `width` lanes.
inline int within(int width, int source) { return source / width == lane() / width && source >= 0 ? source : lane(); }
}  // namespace cuda_emulation

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, FTLIB_WHERE) {
  const int first = cuda_emulation::lane() / width * width;
  return cuda_emulation::shuffle(mask, value, first + (source & (width - 1)), {file, line});
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, FTLIB_WHERE) {
  const int source = cuda_emulation::lane() - static_cast<int>(delta);
  return cuda_emulation::shuffle(mask, value, cuda_emulation::within(width, source), {file, line});
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, FTLIB_WHERE) {
  const int source = cuda_emulation::lane() + static_cast<int>(delta);
  return cuda_emulation::shuffle(mask, value, cuda_emulation::within(width, source), {file, line});
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, FTLIB_WHERE) {
  const int source = cuda_emulation::lane() ^ lanes;
  return cuda_emulation::shuffle(mask, value, cuda_emulation::within(width, source), {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, FTLIB_WHERE) {
  return static_cast<unsigned>(
      cuda_emulation::meet_warp(cuda_emulation::WarpOp::ballot, mask, predicate != 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, FTLIB_WHERE) {
  return static_cast<int>(
      cuda_emulation::meet_warp(cuda_emulation::WarpOp::any, mask, predicate != 0, 0, {file, line}));
}
inline int __all_sync(unsigned mask, int predicate, FTLIB_WHERE) {
  return static_cast<int>(
      cuda_emulation::meet_warp(cuda_emulation::WarpOp::all, mask, predicate != 0, 0, {file, line}));
}
#define FTLIB_WARP_REDUCE(name, op)                                                                             \
  template <class T> T name(unsigned mask, T value, FTLIB_WHERE) {                                              \
    static_assert(std::is_integral_v<T> && sizeof(T) == 4);                                                     \
    return static_cast<T>(cuda_emulation::meet_warp(cuda_emulation::WarpOp::op, mask, value, 0, {file, line})); \
  }
FTLIB_WARP_REDUCE(__reduce_add_sync, add)
FTLIB_WARP_REDUCE(__reduce_min_sync, min)
FTLIB_WARP_REDUCE(__reduce_max_sync, max)
FTLIB_WARP_REDUCE(__reduce_and_sync, bit_and)
FTLIB_WARP_REDUCE(__reduce_or_sync, bit_or)
FTLIB_WARP_REDUCE(__reduce_xor_sync, bit_xor)
#undef FTLIB_WARP_REDUCE

namespace ftlib_ptx {
inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, FTLIB_WHERE) {
  cuda_emulation::mma(c, a, b0, b1, true, {file, line});
}
inline void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, FTLIB_WHERE) {
  cuda_emulation::mma(c, a, b0, b1, false, {file, line});
}
inline void ldmatrix(std::uint32_t (&m)[4], const void* row, FTLIB_WHERE) {
  cuda_emulation::ldmatrix(m, row, false, {file, line});
}
inline void ldmatrix_transposed(std::uint32_t (&m)[4], const void* row, FTLIB_WHERE) {
  cuda_emulation::ldmatrix(m, row, true, {file, line});
}
}  // namespace ftlib_ptx
#undef FTLIB_WHERE

namespace cuda_emulation {
/// *p = f(*p) at once; returns what was there. Its own accesses are not the kernel's and are not checked as such.
template <class T, class F> __attribute__((noinline, no_sanitize("thread"))) T update(T* p, F f) {
  check_atomic(p, sizeof(T));
  const T old = *p;
  *p = f(old);
  return old;
}
}  // namespace cuda_emulation

template <class T> T atomicAdd(T* p, std::type_identity_t<T> v) {
  return cuda_emulation::update(p, [v](T old) { return static_cast<T>(old + v); });
}
template <class T> T atomicMax(T* p, std::type_identity_t<T> v) {
  return cuda_emulation::update(p, [v](T old) { return old < v ? v : old; });
}
template <class T> T atomicMin(T* p, std::type_identity_t<T> v) {
  return cuda_emulation::update(p, [v](T old) { return v < old ? v : old; });
}
template <class T> T atomicOr(T* p, std::type_identity_t<T> v) {
  return cuda_emulation::update(p, [v](T old) { return static_cast<T>(old | v); });
}
template <class T> T atomicAnd(T* p, std::type_identity_t<T> v) {
  return cuda_emulation::update(p, [v](T old) { return static_cast<T>(old & v); });
}
template <class T> T atomicExch(T* p, std::type_identity_t<T> v) {
  return cuda_emulation::update(p, [v](T) { return v; });
}
template <class T> T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return cuda_emulation::update(p, [expected, v](T old) { return old == expected ? v : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> void __stcs(T* p, T v) { *p = v; }

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
