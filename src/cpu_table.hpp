// src/cpu_table.hpp: the table that src/cpu_kernels.cpp fills for one instruction set and src/cpu_dispatch.cpp calls
// through.
#pragma once
#include <ftlib/cpu_runtime.hpp>

namespace ft::inline FTLIB_ABI::detail {

#define FTLIB_CPU_DEFAULT(type, value) type
#define FTLIB_CPU_POINTER(TAG, NAME, ...) void (*NAME##TAG)(Context<Cpu>&, __VA_ARGS__);
template <class T> struct CpuKernels { FTLIB_CPU_LAUNCHERS(FTLIB_CPU_POINTER, T) };
template <class T> struct CpuFloatKernels { FTLIB_CPU_FLOAT_LAUNCHERS(FTLIB_CPU_POINTER, T) };
#undef FTLIB_CPU_POINTER

/// One for each instruction set; double, which is for tests and references, has the baseline alone.
struct CpuKernelSet : CpuKernels<float>, CpuFloatKernels<float> {};
extern const CpuKernelSet cpu_kernels_baseline, cpu_kernels_avx2, cpu_kernels_avx512;
extern const CpuKernels<double> cpu_kernels_double;

}  // namespace ft::inline FTLIB_ABI::detail
