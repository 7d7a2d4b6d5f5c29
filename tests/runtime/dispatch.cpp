// tests/runtime/dispatch.cpp: the instruction set that the kernels use is the one that was asked for.
#include <doctest/doctest.h>
#include <ftlib/core/cpu.hpp>
#include <ftlib/ops/attention.hpp>
#include <ftlib/ops/cross_entropy.hpp>
#include <ftlib/ops/norm.hpp>
#include <ftlib/optim/adamw.hpp>

#include <cstdlib>

#if defined(EIGEN_WORLD_VERSION)
#error "a program that links the runtime should not read Eigen"
#endif

TEST_CASE("the kernels' instruction set") {
  const char* const wanted = std::getenv("FTLIB_CPU");
  if (wanted) CHECK(ft::cpu_instruction_set() == wanted);
  else CHECK_FALSE(ft::cpu_instruction_set().empty());
#if defined(__OPTIMIZE__)  // as the runtime is, which has the same build type
  CHECK(ft::cpu_flags_hint().empty());
#else
  CHECK(ft::cpu_flags_hint().find("CMAKE_BUILD_TYPE=Release") != std::string::npos);
#endif
}
