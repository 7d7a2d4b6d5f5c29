// tests/cuda_emulation/nccl_ranks.hpp: ranks of the stand-in for NCCL, as threads.
#pragma once
#include <functional>  // std::function

namespace cuda_emulation {

/// Runs work(rank) in as many threads, of which one goes on at a time, and another one where that waits in NCCL: the
/// emulated GPU does one thing at a time. Where one throws, the others' calls fail, and its exception is thrown here.
void run_nccl_ranks(int ranks, const std::function<void(int)>& work);

}  // namespace cuda_emulation
