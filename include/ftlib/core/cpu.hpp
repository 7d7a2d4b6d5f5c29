// core/cpu.hpp: which of the CPU's vector instructions the kernels use.
#pragma once
#include <ftlib/core/version.hpp>

#include <string>       // std::string
#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

#if !FTLIB_HEADER_ONLY
/// The instruction set of the kernels: "avx512", "avx2" or "baseline" (SSE2 on x86-64, NEON on arm64). The runtime
/// takes the best that this CPU has, once for the process; the environment variable FTLIB_CPU=baseline, avx2 or avx512
/// asks for another. A header-only build has that of the compiler's flags. Throws Error where FTLIB_CPU names none or
/// one that this CPU lacks.
std::string_view cpu_instruction_set();

/// A sentence with the compiler's flag that the kernels lack: optimisation, or, header-only, vector instructions that
/// this CPU has; else empty.
std::string cpu_flags_hint();
#else
inline std::string_view cpu_instruction_set() {
#if defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
  return "avx2";
#else
  return "baseline";
#endif
}

inline std::string cpu_flags_hint() {
#if !defined(__OPTIMIZE__)
  return "this program was compiled without optimisation, and computes many times slower: compile with -O3 "
         "-march=native (CMAKE_BUILD_TYPE=Release), or link ftlib::runtime.";
#endif
#if (defined(__x86_64__) || defined(__i386__)) && !defined(__AVX512F__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
    return "this CPU has AVX-512, and this build does not use it: compile with -march=native (or -mavx512f -mavx512vl "
           "-mavx512bw -mavx512dq -mfma -mf16c) for a faster matrix product, or link ftlib::runtime.";
#if !defined(__AVX2__) || !defined(__FMA__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return "this CPU has AVX2, and this build does not use it: compile with -march=native (or -mavx2 -mfma -mf16c) for "
           "a matrix product several times as fast, or link ftlib::runtime.";
#endif
#endif
  return {};
}
#endif

}  // namespace ft::inline FTLIB_ABI
