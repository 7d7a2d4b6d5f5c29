// tests/gpu/emulation.hpp: what tests say to the emulation (tests/cuda_emulation/emulation.hpp), where there is none: a
// GPU takes threads in an order of its own.
#pragma once
#include <cstdint>  // std::uint64_t

namespace cuda_emulation {
inline void set_seed(std::uint64_t) {}
}  // namespace cuda_emulation
