// src/cpu_kernels.cpp: the CPU's kernels for one instruction set. CMake compiles this file once for each, with that
// set's flags and FTLIB_CPU_SET as its name.
//
// Kernels stand in a namespace of the set's own; View, Context and what else their arguments are made of stay the
// runtime's. But the compiler also puts the members of std::vector, View, Context into the object file, whose names are
// those in every other object file, and a linker takes any one of them: one with AVX-512 in it would end the program on
// another CPU. So CMake makes all names in it local but the table's, and tests/runtime/check_objects.py looks.
#include "cpu_table.hpp"

#include <ftlib/core/random.hpp>
#include <ftlib/ops/conv2d.shared.hpp>
#include <ftlib/ops/gated_delta_rule.shared.hpp>
#include <ftlib/ops/gemm.shared.hpp>
#include <ftlib/ops/kinds.hpp>
#include <ftlib/ops/norm.shared.hpp>
#include <ftlib/ops/sampling.shared.hpp>
#include <ftlib/optim/adamw.shared.hpp>
#include <ftlib/optim/adamw8bit.shared.hpp>
#include <ftlib/optim/clip.shared.hpp>
#include <ftlib/optim/lion.shared.hpp>
#include <ftlib/optim/stochastic.hpp>

namespace ft {
namespace runtime_detail = FTLIB_ABI::detail;
}
#undef FTLIB_ABI
#define FTLIB_ABI FTLIB_JOIN(kernels_, FTLIB_CPU_SET)
namespace ft::inline FTLIB_ABI::detail {
using namespace runtime_detail;
}

#include <ftlib/ops/activation.cpu.hpp>
#include <ftlib/ops/attention.cpu.hpp>
#include <ftlib/ops/causal_conv.cpu.hpp>
#include <ftlib/ops/conv2d.cpu.hpp>
#include <ftlib/ops/cross_entropy.cpu.hpp>
#include <ftlib/ops/dropout.cpu.hpp>
#include <ftlib/ops/embedding.cpu.hpp>
#include <ftlib/ops/gated_delta_rule.cpu.hpp>
#include <ftlib/ops/group_norm.cpu.hpp>
#include <ftlib/ops/linear.cpu.hpp>
#include <ftlib/ops/norm.cpu.hpp>
#include <ftlib/ops/rope.cpu.hpp>
#include <ftlib/ops/rows.cpu.hpp>
#include <ftlib/ops/sampling.cpu.hpp>
#include <ftlib/ops/softmax.cpu.hpp>
#include <ftlib/optim/adamw.cpu.hpp>
#include <ftlib/optim/adamw8bit.cpu.hpp>
#include <ftlib/optim/clip.cpu.hpp>
#include <ftlib/optim/ema.cpu.hpp>
#include <ftlib/optim/lion.cpu.hpp>
#include <ftlib/tensor/quantise.cpu.hpp>
#include <ftlib/tensor/stored.cpu.hpp>

namespace ft::inline FTLIB_ABI {
// A launcher that is not as cpu_runtime.hpp lists it does not compile here.
#define FTLIB_CPU_ADDRESS(TAG, NAME, ...) static_cast<void (*)(Context<Cpu>&, __VA_ARGS__)>(&NAME),
#if FTLIB_CPU_DOUBLE
constexpr detail::CpuKernels<double> table{FTLIB_CPU_LAUNCHERS(FTLIB_CPU_ADDRESS, double)};
#else
constexpr detail::CpuKernelSet table{{FTLIB_CPU_LAUNCHERS(FTLIB_CPU_ADDRESS, float)},
                                     {FTLIB_CPU_FLOAT_LAUNCHERS(FTLIB_CPU_ADDRESS, float)}};
#endif
}  // namespace ft::inline FTLIB_ABI

const decltype(ft::table) ft::runtime_detail::FTLIB_JOIN(cpu_kernels_, FTLIB_CPU_SET) = ft::table;
