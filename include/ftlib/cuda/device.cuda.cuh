// cuda/device.cuda.cuh: which GPU the calling thread speaks to, and the check of what CUDA's calls return.
#pragma once
#include <ftlib/core/error.hpp>

#include <cuda_runtime_api.h>  // cudaSetDevice

namespace ft::inline FTLIB_ABI::detail {

/// Throws Error, with the name of the call, where it failed.
inline void check_cuda(cudaError_t result, const char* call) {
  if (result == cudaSuccess) return;
  throw Error(str("cuda: ", call, ": ", cudaGetErrorName(result), ", ", cudaGetErrorString(result)),
              result == cudaErrorMemoryAllocation
                  ? "use a smaller batch, or recompute activations."
                  : "an earlier kernel may be at fault: CUDA_LAUNCH_BLOCKING=1 shows which.",
              result == cudaErrorMemoryAllocation ? ErrorKind::no_memory : ErrorKind::other);
}

/// Makes `device` the calling thread's while it lives, and then the one before it again: CUDA refuses a launch whose
/// stream is of another device than the thread's, which starts at 0 in each thread. Costs a look where it is the
/// thread's already. Never throws; what is asked for under it says what is wrong.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) noexcept {
    int now = device;
    if (cudaGetDevice(&now) == cudaSuccess && now != device && cudaSetDevice(device) == cudaSuccess) before_ = now;
  }
  ~DeviceGuard() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = -1;  // -1: nothing to put back
};

/// A stream and the device that it is of.
struct DeviceStream {
  cudaStream_t stream = nullptr;
  int device = 0;
  operator cudaStream_t() const { return stream; }
};

}  // namespace ft::inline FTLIB_ABI::detail
