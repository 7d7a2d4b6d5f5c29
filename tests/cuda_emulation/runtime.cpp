// tests/cuda_emulation/runtime.cpp: the CUDA runtime's functions as far as the library uses them. Streams do their work
// at once, in the order of the calls; so a missing event between two streams is not found here.
#include <cuda_runtime_api.h>

#include <chrono>  // std::chrono::steady_clock

#include "machine.hpp"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
alignas(4096) thread_local uint4
    ftlib_dynamic_shared[(227 << 10) / sizeof(uint4)];  // the most a block of any GPU so far may have

namespace cuda_emulation {

void set_seed(std::uint64_t seed) { Machine::get().set_seed(seed); }
std::int64_t launches() { return Machine::get().launches(); }
std::int64_t allocated_bytes() { return static_cast<std::int64_t>(Machine::get().memory().used()); }
int run(const Launch& launch) { return Machine::get().run(launch); }
std::int64_t meet_warp(WarpOp op, unsigned mask, std::int64_t value, int source_lane, Where where) {
  return Machine::get().meet_warp(op, mask, value, source_lane, where);
}
int meet_block(BlockOp op, int predicate, Where where) { return Machine::get().meet_block(op, predicate, where); }
int lane() { return Machine::get().lane(); }
void check_atomic(const void* p, std::size_t bytes) {
  Machine::get().access(p, bytes, Kind::atomic, __builtin_return_address(0));
}
void copy_later(void* to, const void* from, std::size_t bytes, std::size_t zeros) {
  Machine::get().copy_later(to, from, bytes, zeros, __builtin_return_address(0));
}
void commit_copies() { Machine::get().commit_copies(); }
void wait_for_copies(std::size_t groups_left) { Machine::get().wait_for_copies(groups_left); }

namespace {
/// The host's access to device memory, in bounds and alive; marks what is written.
void check_host_access(const char* call, const void* p, std::size_t bytes, bool write) {
  Memory& memory = Machine::get().memory();
  const auto* const at = static_cast<const std::byte*>(p);
  if (!memory.holds(at)) return;  // the host's own
  Memory::Allocation* a = memory.find(at);
  const auto offset = a ? static_cast<std::size_t>(at - a->begin) : 0;
  if (!a || !a->alive || offset + bytes > a->bytes)
    throw Fault(std::string(call) + ": " + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) +
                " of an allocation of " + std::to_string(a ? a->bytes : 0) +
                (a && !a->alive ? ", which was freed" : ""));
  if (write) a->shadow->written_by_host(offset, bytes);
}
bool is_device(const void* p) { return Machine::get().memory().holds(static_cast<const std::byte*>(p)); }

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  Machine::get().throw_pending();
  if (bytes == 0) return cudaSuccess;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (is_device(to) != to_device || is_device(from) != from_device))
    throw Fault("cudaMemcpy: a pointer is on the other side than the kind of copy says");
  check_host_access("cudaMemcpy", from, bytes, false);
  check_host_access("cudaMemcpy", to, bytes, true);
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t set(void* to, int value, std::size_t bytes) {
  Machine::get().throw_pending();
  if (bytes == 0) return cudaSuccess;
  if (!is_device(to)) throw Fault("cudaMemset: not memory of the device");
  check_host_access("cudaMemset", to, bytes, true);
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t allocate(void** p, std::size_t bytes) {
  *p = Machine::get().memory().allocate(bytes);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t release(void* p) {
  if (p && !Machine::get().memory().release(p)) {
    Machine::get().host_fault("cudaFree: the pointer is no allocation that lives");  // destructors call it: no throw
    return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
struct Event {
  std::chrono::steady_clock::time_point time;
};
/// Handles that nobody looks into.
template <class Handle> Handle handle() { return reinterpret_cast<Handle>(std::uintptr_t{16}); }
}  // namespace
}  // namespace cuda_emulation

using namespace cuda_emulation;

extern "C" {
cudaError_t cudaMalloc(void** p, std::size_t bytes) { return allocate(p, bytes); }
cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t) { return allocate(p, bytes); }
cudaError_t cudaFree(void* p) { return release(p); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return release(p); }
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t n, cudaMemcpyKind kind) {
  return copy(to, from, n, kind);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t n, cudaMemcpyKind kind, cudaStream_t) {
  return copy(to, from, n, kind);
}
cudaError_t cudaMemset(void* to, int value, std::size_t n) { return set(to, value, n); }
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t n, cudaStream_t) { return set(to, value, n); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = handle<cudaStream_t>();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  Machine::get().throw_pending();
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaStreamSynchronize(nullptr); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event{});
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  reinterpret_cast<Event*>(event)->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = std::chrono::duration<float, std::milli>(reinterpret_cast<Event*>(to)->time -
                                                           reinterpret_cast<Event*>(from)->time)
                      .count();
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    default:
      return "another cudaError_t";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;  // few, so that grids that depend on it are small
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = sizeof ftlib_dynamic_shared;
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<std::size_t>(value) > sizeof ftlib_dynamic_shared) return cudaErrorInvalidValue;
  Machine::get().allow_shared(kernel, static_cast<std::size_t>(value));
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = handle<cudaMemPool_t>();
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  *static_cast<std::uint64_t*>(value) = static_cast<std::uint64_t>(allocated_bytes());
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) { return cudaSuccess; }
}
