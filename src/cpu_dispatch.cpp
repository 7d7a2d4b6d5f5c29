// src/cpu_dispatch.cpp: which of the kernels' instruction sets this process uses, and each launcher as a call through
// the table of that set.
#include "cpu_table.hpp"

#include <ftlib/core/cpu.hpp>
#include <ftlib/ops/kinds.hpp>

#include <array>    // std::array
#include <cstdlib>  // std::getenv

#if !defined(FTLIB_CPU_ONLY_SET)  // what CMake calls the set of a build with one
#define FTLIB_CPU_ONLY_SET "baseline"
#endif

namespace ft::inline FTLIB_ABI {

namespace {

struct Set {
  std::string_view name;
  bool supported;
  const detail::CpuKernelSet* kernels;
};

/// The best set that this CPU has, or that which FTLIB_CPU names.
Set choose() {
#if FTLIB_CPU_SETS == 3
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const std::array sets{Set{"avx512", avx512, &detail::cpu_kernels_avx512},
                        Set{"avx2", fma, &detail::cpu_kernels_avx2},  // F16C is in every CPU that has AVX2
                        Set{"baseline", true, &detail::cpu_kernels_baseline}};
#else
  const std::array sets{Set{FTLIB_CPU_ONLY_SET, true, &detail::cpu_kernels_baseline}};
#endif
  const char* const wanted = std::getenv("FTLIB_CPU");
  std::string names;
  for (const Set& set : sets) {
    if (wanted ? set.name == wanted : set.supported) {
      if (set.supported) return set;
      throw Error(str("FTLIB_CPU is '", wanted, "', which this CPU lacks"), "leave it unset for the best that it has.");
    }
    names += str(names.empty() ? "" : ", ", set.name);
  }
  throw Error(str("FTLIB_CPU is '", wanted, "'"), str("this build has ", names, "; leave it unset for the best."));
}

const Set& chosen() {
  static const Set set = choose();
  return set;
}

}  // namespace

std::string_view cpu_instruction_set() { return chosen().name; }

std::string cpu_flags_hint() {
#if !defined(__OPTIMIZE__)
  return "this build of ftlib::runtime is not optimised, and computes many times slower: set CMAKE_BUILD_TYPE=Release.";
#else
  return {};
#endif
}

// Names for a launcher's arguments, the last being p1.
#define FTLIB_COUNT(...) FTLIB_COUNT_(__VA_ARGS__, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)
#define FTLIB_COUNT_(a, b, c, d, e, f, g, h, i, j, k, l, n, ...) n
#define FTLIB_NAMED1(A) A p1
#define FTLIB_NAMED2(A, ...) A p2, FTLIB_NAMED1(__VA_ARGS__)
#define FTLIB_NAMED3(A, ...) A p3, FTLIB_NAMED2(__VA_ARGS__)
#define FTLIB_NAMED4(A, ...) A p4, FTLIB_NAMED3(__VA_ARGS__)
#define FTLIB_NAMED5(A, ...) A p5, FTLIB_NAMED4(__VA_ARGS__)
#define FTLIB_NAMED6(A, ...) A p6, FTLIB_NAMED5(__VA_ARGS__)
#define FTLIB_NAMED7(A, ...) A p7, FTLIB_NAMED6(__VA_ARGS__)
#define FTLIB_NAMED8(A, ...) A p8, FTLIB_NAMED7(__VA_ARGS__)
#define FTLIB_NAMED9(A, ...) A p9, FTLIB_NAMED8(__VA_ARGS__)
#define FTLIB_NAMED10(A, ...) A p10, FTLIB_NAMED9(__VA_ARGS__)
#define FTLIB_NAMED11(A, ...) A p11, FTLIB_NAMED10(__VA_ARGS__)
#define FTLIB_NAMED12(A, ...) A p12, FTLIB_NAMED11(__VA_ARGS__)
#define FTLIB_P1 p1
#define FTLIB_P2 p2, FTLIB_P1
#define FTLIB_P3 p3, FTLIB_P2
#define FTLIB_P4 p4, FTLIB_P3
#define FTLIB_P5 p5, FTLIB_P4
#define FTLIB_P6 p6, FTLIB_P5
#define FTLIB_P7 p7, FTLIB_P6
#define FTLIB_P8 p8, FTLIB_P7
#define FTLIB_P9 p9, FTLIB_P8
#define FTLIB_P10 p10, FTLIB_P9
#define FTLIB_P11 p11, FTLIB_P10
#define FTLIB_P12 p12, FTLIB_P11

#define FTLIB_CPU_CALL(TABLE, TAG, NAME, T, ...)                                                                 \
  template <> void NAME<T>(Context<Cpu> & ctx, FTLIB_JOIN(FTLIB_NAMED, FTLIB_COUNT(__VA_ARGS__))(__VA_ARGS__)) { \
    TABLE.NAME##TAG(ctx, FTLIB_JOIN(FTLIB_P, FTLIB_COUNT(__VA_ARGS__)));                                         \
  }
#define FTLIB_CPU_FLOAT(TAG, NAME, ...) FTLIB_CPU_CALL((*chosen().kernels), TAG, NAME, float, __VA_ARGS__)
#define FTLIB_CPU_DOUBLE(TAG, NAME, ...) FTLIB_CPU_CALL(detail::cpu_kernels_double, TAG, NAME, double, __VA_ARGS__)
FTLIB_CPU_LAUNCHERS(FTLIB_CPU_FLOAT, float)
FTLIB_CPU_FLOAT_LAUNCHERS(FTLIB_CPU_FLOAT, float)
FTLIB_CPU_LAUNCHERS(FTLIB_CPU_DOUBLE, double)

}  // namespace ft::inline FTLIB_ABI
