// core/version.hpp: the library's version, and the inline namespace that keeps a CPU build and a CUDA build apart.
#pragma once

#define FTLIB_VERSION_MAJOR 0
#define FTLIB_VERSION_MINOR 1
#define FTLIB_VERSION_PATCH 0
#define FTLIB_VERSION "0.1.0"

// FTLIB_WITH_CUDA is set by the target that is linked (ftlib::cuda, ftlib::cuda_runtime), never per file: two
// translation units of one program that disagree get two names at link time instead of one ODR violation at run time.
#if defined(FTLIB_WITH_CUDA) && FTLIB_WITH_CUDA
#define FTLIB_ABI v1_cuda
#else
#define FTLIB_ABI v1_cpu
#endif

namespace ft::inline FTLIB_ABI {}
