// cuda/launch.cuda.cuh: the one door through which kernels are launched.
#pragma once
#include <ftlib/cuda/device.cuda.cuh>
#if FTLIB_CUDA_RUNTIME
#include <ftlib/cuda/kernel_words.cuda.cuh>
#endif

#include <cuda_runtime.h>  // cudaLaunchKernelEx
#include <cstddef>         // std::size_t
#include <type_traits>     // std::type_identity_t

/// A block's dynamic shared memory; the name is known to the linker, so it is not in a namespace.
extern "C" {
extern __shared__ uint4 ftlib_dynamic_shared[];
}

namespace ft::inline FTLIB_ABI {

namespace detail {
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
/// A grid of `blocks` blocks; throws Error where that is more than CUDA can count.
inline dim3 grid_of(std::int64_t blocks) {
  if (blocks > 0x7fffffff) throw Error(str("cuda: a launch of ", blocks, " blocks"), "split the tensor.");
  return dim3(static_cast<unsigned>(blocks));
}
}  // namespace detail

/// Calls kernel(arguments...) with every thread of `grid` blocks of `block` threads, on the device and in the order of
/// `stream` (Context<Cuda>::stream()), and returns at once. Does nothing for an empty grid. Throws Error where CUDA
/// refuses the sizes.
template <class... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, detail::DeviceStream stream,
            std::type_identity_t<Parameters>... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const detail::DeviceGuard guard(stream.device);
  if (shared_bytes > (std::size_t{48} << 10))  // more than every GPU grants without being asked
    detail::check_cuda(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "launch: shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  detail::check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
}

namespace detail {
/// The block's dynamic shared memory, of launch()'s shared_bytes; aligned to 16 bytes.
template <class T> __device__ T* dynamic_shared() { return reinterpret_cast<T*>(ftlib_dynamic_shared); }
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
