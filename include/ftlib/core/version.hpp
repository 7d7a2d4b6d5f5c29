// core/version.hpp: the library's version, the two ways to build it, and the inline namespace that keeps builds apart.
#pragma once

#if __cplusplus < 201709L  // what g++ 10 calls C++20
#error "ftlib needs C++20: compile with -std=c++20; in CMake, link ftlib::ftlib or ftlib::runtime, which ask for it"
#include <stop here, so that no errors follow from the one above>
#endif

#define FTLIB_VERSION_MAJOR 0
#define FTLIB_VERSION_MINOR 1
#define FTLIB_VERSION_PATCH 0
#define FTLIB_VERSION "0.1.0"

// Header-only (ftlib::ftlib) or against the compiled runtime (ftlib::runtime, which sets 0). x.hpp declares; x.inl.hpp
// defines, and is included by x.hpp where the build is header-only, else by the runtime's translation unit alone.
#if !defined(FTLIB_HEADER_ONLY)
#define FTLIB_HEADER_ONLY 1
#endif
#if FTLIB_HEADER_ONLY
#define FTLIB_INLINE inline
#else
#define FTLIB_INLINE
#endif

// FTLIB_WITH_CUDA is set by the target that is linked (ftlib::cuda, ftlib::cuda_runtime), never per file. Builds that
// must not meet have other names: a mixture is an error when the program is linked, not a wrong result when it runs.
// So are object files that are header-only and were compiled with other -m flags. The name begins with the version, so
// that two of them live in one process.
#define FTLIB_JOIN_(a, b) a##b
#define FTLIB_JOIN(a, b) FTLIB_JOIN_(a, b)
#define FTLIB_ABI_VERSION FTLIB_JOIN(FTLIB_JOIN(v, FTLIB_VERSION_MAJOR), FTLIB_JOIN(_, FTLIB_VERSION_MINOR))
#if defined(FTLIB_WITH_CUDA) && FTLIB_WITH_CUDA
#define FTLIB_ABI_DEVICE _cuda
#else
#define FTLIB_ABI_DEVICE _cpu
#endif
#if !FTLIB_HEADER_ONLY
#define FTLIB_ABI_BUILD _runtime
#elif defined(FTLIB_WITH_CUDA) && FTLIB_WITH_CUDA  // nvcc compiles a file several times, with other macros
#define FTLIB_ABI_BUILD
#elif defined(__AVX512F__)
#define FTLIB_ABI_BUILD _avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define FTLIB_ABI_BUILD _avx2
#else
#define FTLIB_ABI_BUILD _baseline
#endif
#define FTLIB_ABI FTLIB_JOIN(FTLIB_ABI_VERSION, FTLIB_JOIN(FTLIB_ABI_DEVICE, FTLIB_ABI_BUILD))

namespace ft::inline FTLIB_ABI {}
