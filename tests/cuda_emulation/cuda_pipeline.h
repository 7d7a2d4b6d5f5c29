// tests/cuda_emulation/cuda_pipeline.h: copies to shared memory that go on while the kernel computes (cp.async). Here
// they are made when they are waited for, so a kernel that waits too little reads what nobody has written, and one that
// never waits writes over what was stored there meanwhile.
#pragma once
#include <cuda_runtime.h>

inline void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes, std::size_t zeros = 0) {
  cuda_emulation::copy_later(to, from, bytes, zeros);
}
inline void __pipeline_commit() { cuda_emulation::commit_copies(); }
inline void __pipeline_wait_prior(std::size_t groups_left) { cuda_emulation::wait_for_copies(groups_left); }
