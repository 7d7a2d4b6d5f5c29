// tests/gpu/emulation.hpp: what tests say to the emulation (tests/cuda_emulation/emulation.hpp), where there is none: a
// GPU takes threads in an order of its own, and counts nothing for us.
#pragma once
#include <cstdint>    // std::int64_t
#include <stdexcept>  // std::runtime_error

namespace cuda_emulation {

inline constexpr bool here = false;
inline constexpr int devices = 1;  // that each test may rely on
using Fault = std::runtime_error;

inline void set_seed(std::uint64_t) {}
inline std::int64_t launches() { return 0; }
inline std::int64_t allocated_bytes() { return 0; }
struct GraphCounts {
  std::int64_t instantiated = 0, updated = 0;
};
inline GraphCounts graphs() { return {}; }

}  // namespace cuda_emulation
