// tests/cuda_emulation/runtime.cpp: the CUDA runtime's functions as far as the library uses them. Streams do their work
// at once, in the order of the calls; what no event orders between two of them is a Fault (streams.hpp).
#include <cuda_runtime_api.h>

#include <ftlib/core/dtype.hpp>  // bfloat16, half

#include <algorithm>   // std::equal
#include <chrono>      // std::chrono::steady_clock
#include <cstdlib>     // std::malloc, setenv
#include <functional>  // std::function
#include <utility>     // std::exchange
#include <vector>      // std::vector

#include "machine.hpp"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
alignas(4096) thread_local uint4
    ftlib_dynamic_shared[(227 << 10) / sizeof(uint4)];  // the most a block of any GPU so far may have

namespace cuda_emulation {

// Each tensor is to be an allocation of its own, so that one that is left, or read before it is written, shows.
[[maybe_unused]] const int no_cache = setenv("FTLIB_NO_CUDA_CACHE", "1", 0);

void set_seed(std::uint64_t seed) { Machine::get().set_seed(seed); }
std::int64_t launches() { return Machine::get().launches(); }
std::int64_t allocated_bytes() { return static_cast<std::int64_t>(Machine::get().memory().used()); }
void list_launches(std::vector<Listed>* launches) { listed = launches; }
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
struct MmaLane {
  float (&c)[4];
  const std::uint32_t (&a)[4];
  std::uint32_t b[2];
};
/// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", by its formulas.
template <class T> void mma_of_warp(void* const* of_lanes) {
  const auto element = [](const std::uint32_t* registers, int i) {
    T x;
    x.bits = static_cast<std::uint16_t>(registers[i / 2] >> (16 * (i % 2)));
    return static_cast<float>(x);
  };
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<const MmaLane*>(of_lanes[lane]);
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < 8; ++i)
      a[i < 2 || (i >= 4 && i < 6) ? group : group + 8][member * 2 + (i & 1) + (i < 4 ? 0 : 8)] = element(mine.a, i);
    for (int i = 0; i < 4; ++i) b[member * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = element(mine.b, i);
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto& mine = *static_cast<MmaLane*>(of_lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + (i & 1);
      for (int k = 0; k < 16; ++k) mine.c[i] += a[row][k] * b[k][column];
    }
  }
}
struct MatrixLane {
  const std::byte *row, *rows[4][2];  // the rows that this lane has elements of, and for `transposed` a second one
  bool transposed;
};
}  // namespace

void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, bool bf16, Where where) {
  MmaLane mine{c, a, {b0, b1}};
  Machine::get().meet_whole_warp(bf16 ? mma_of_warp<ft::bfloat16> : mma_of_warp<ft::half>, &mine, where);
}
void ldmatrix(std::uint32_t (&m)[4], const void* row, bool transposed, Where where) {
  Machine& machine = Machine::get();
  const void* const pc = __builtin_return_address(0);
  if (reinterpret_cast<std::uintptr_t>(row) % 16) machine.misaligned(row, 16, Machine::Seen::by_type, pc, where);
  machine.must_be_shared(row, pc);
  MatrixLane mine{static_cast<const std::byte*>(row), {}, transposed};
  machine.meet_whole_warp(
      [](void* const* of_lanes) {
        for (int lane = 0; lane < 32; ++lane) {
          auto& to = *static_cast<MatrixLane*>(of_lanes[lane]);
          for (int i = 0; i < 4; ++i)
            for (int k = 0; k < 2; ++k) {
              const int of = to.transposed ? lane % 4 * 2 + k : lane / 4;
              to.rows[i][k] = static_cast<const MatrixLane*>(of_lanes[8 * i + of])->row;
            }
        }
      },
      &mine, where);
  const int lane = cuda_emulation::lane();
  for (int i = 0; i < 4; ++i) {
    if (transposed) {  // two elements of column lane / 4; checked by whole words, as all that is known of memory is
      std::uint16_t of[2];
      for (int k = 0; k < 2; ++k) {
        machine.access(mine.rows[i][k] + lane / 8 * 4, 4, Kind::read, pc);
        std::memcpy(of + k, mine.rows[i][k] + lane / 4 * 2, 2);
      }
      m[i] = of[0] | std::uint32_t{of[1]} << 16;
    } else {
      machine.access(mine.rows[i][0] + lane % 4 * 4, 4, Kind::read, pc);
      std::memcpy(m + i, mine.rows[i][0] + lane % 4 * 4, 4);
    }
  }
}

void host_access(const char* call, const void* p, std::size_t bytes, HostAccess access) {
  Memory& memory = Machine::get().memory();
  const auto* const at = static_cast<const std::byte*>(p);
  if (bytes == 0 || !memory.holds(at)) return;  // the host's own
  Memory::Allocation* a = memory.find(at);
  const auto offset = a ? static_cast<std::size_t>(at - a->begin) : 0;
  const auto where = [&] {
    return std::string(call) + ": " + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) +
           " of an allocation of " + std::to_string(a ? a->bytes : 0);
  };
  if (!a || !a->alive || offset + bytes > a->bytes) throw Fault(where() + (a && !a->alive ? ", which was freed" : ""));
  Machine& machine = Machine::get();
  if (const char* other = access == HostAccess::scratch
                              ? machine.use_by_work(*a)
                              : machine.access_by_work(*a, offset, bytes, access == HostAccess::write))
    throw Fault("race of streams: " + where() + "; work of another stream " + other +
                " them, and no event lies between");
  if (access == HostAccess::read && !a->shadow->written(offset, bytes))
    throw Fault(where() + ", which nobody has written");
}

struct Graph {
  std::vector<std::pair<NodeKind, std::function<int()>>> nodes;
};

namespace {
std::vector<std::pair<const std::byte*, std::size_t>> pinned;
GraphCounts counts;

bool is_device(const void* p) { return Machine::get().memory().holds(static_cast<const std::byte*>(p)); }

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  Machine::get().throw_pending();
  if (bytes == 0 || listed) return cudaSuccess;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (is_device(to) != to_device || is_device(from) != from_device))
    throw Fault("cudaMemcpy: a pointer is on the other side than the kind of copy says");
  host_access("cudaMemcpy", from, bytes, HostAccess::copy);
  host_access("cudaMemcpy", to, bytes, HostAccess::write);
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t set(void* to, int value, std::size_t bytes) {
  Machine::get().throw_pending();
  if (bytes == 0 || listed) return cudaSuccess;
  if (!is_device(to)) throw Fault("cudaMemset: not memory of the device");
  host_access("cudaMemset", to, bytes, HostAccess::write);
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t allocate(void** p, std::size_t bytes, int device) {
  *p = Machine::get().memory().allocate(listed ? 0 : bytes, device);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t release(void* p) {
  if (p && !Machine::get().memory().release(p)) {
    Machine::get().host_fault("cudaFree: the pointer is no allocation that lives");  // destructors call it: no throw
    return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
/// A stream's handle, and what is recorded of it.
struct Stream {
  int device = current_device, number = Machine::get().order().add();
  bool recording = false;
  Graph graph;
};
Stream* of(cudaStream_t stream) { return reinterpret_cast<Stream*>(stream); }
/// Work on device memory that a graph does later reads and writes the host's only where that stays: in memory that
/// cudaMallocHost gave.
void must_stay(const void* host) {
  const auto* const p = static_cast<const std::byte*>(host);
  for (const auto& [begin, bytes] : pinned)
    if (p >= begin && p < begin + bytes) return;
  throw Fault("cudaMemcpyAsync: a recorded copy of host memory that is not pinned");
}
cudaError_t ordered(cudaStream_t stream, NodeKind kind, std::function<int()> work) {
  if (!recording(stream)) {
    const StreamWork begun(stream);
    return static_cast<cudaError_t>(work());
  }
  record(stream, kind, std::move(work));
  return cudaSuccess;
}
struct Event {
  std::chrono::steady_clock::time_point time;
  Seen seen;
  int device = current_device;
};
/// Handles that nobody looks into.
template <class Handle> Handle handle() { return reinterpret_cast<Handle>(std::uintptr_t{16}); }
}  // namespace

int stream_number(CUstream_st* stream) { return stream ? of(stream)->number : 0; }
bool of_current_device(CUstream_st* stream) { return !stream || of(stream)->device == current_device; }
bool recording(CUstream_st* stream) { return stream && of(stream)->recording; }
void record(CUstream_st* stream, NodeKind kind, std::function<int()> work) {
  of(stream)->graph.nodes.emplace_back(kind, std::move(work));
}
GraphCounts graphs() { return counts; }
}  // namespace cuda_emulation

using namespace cuda_emulation;

extern "C" {
cudaError_t cudaMalloc(void** p, std::size_t bytes) { return allocate(p, bytes, current_device); }
cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t stream) {
  return recording(stream)
             ? cudaErrorStreamCaptureUnsupported
             : allocate(p, bytes, stream ? of(stream)->device : current_device);  // graphs get their memory elsewhere
}
cudaError_t cudaFree(void* p) { return release(p); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  if (!recording(stream)) {
    auto* const block = Machine::get().memory().find(static_cast<const std::byte*>(p));
    if (block && block->alive && !Machine::get().may_free(*block, stream))
      Machine::get().host_fault("race of streams: cudaFreeAsync: another stream uses " + std::to_string(block->bytes) +
                                " bytes, and no event lies between");
    return release(p);
  }
  Machine::get().host_fault("cudaFreeAsync: while the stream is recorded");
  return cudaErrorStreamCaptureUnsupported;
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  *p = std::malloc(bytes);
  pinned.emplace_back(static_cast<const std::byte*>(*p), bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  std::erase_if(pinned, [p](const auto& block) { return block.first == p; });
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t n, cudaMemcpyKind kind) {
  return copy(to, from, n, kind);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t n, cudaMemcpyKind kind, cudaStream_t stream) {
  if (recording(stream)) {
    if (!is_device(from)) must_stay(from);
    if (!is_device(to)) must_stay(to);
  }
  return ordered(stream, NodeKind::copy, [=] { return copy(to, from, n, kind); });
}
cudaError_t cudaMemset(void* to, int value, std::size_t n) { return set(to, value, n); }
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t n, cudaStream_t stream) {
  return ordered(stream, NodeKind::set, [=] { return set(to, value, n); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(new Stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete of(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (recording(stream)) return cudaErrorStreamCaptureUnsupported;
  Machine::get().throw_pending();
  StreamOrder& order = Machine::get().order();
  order.host_waits(order.record(stream_number(stream)));
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || recording(stream)) return cudaErrorIllegalState;
  of(stream)->recording = true;
  of(stream)->graph = {};
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!recording(stream)) return cudaErrorIllegalState;
  of(stream)->recording = false;
  *graph = reinterpret_cast<cudaGraph_t>(new Graph(std::exchange(of(stream)->graph, {})));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  ++counts.instantiated;
  *made = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t made, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
  Graph &to = *reinterpret_cast<Graph*>(made), &from = *reinterpret_cast<Graph*>(graph);
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
  *info = {};
  if (!std::equal(to.nodes.begin(), to.nodes.end(), from.nodes.begin(), from.nodes.end(), same))
    return cudaErrorGraphExecUpdateFailure;
  ++counts.updated;
  to = from;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made) { return cudaGraphDestroy(reinterpret_cast<cudaGraph_t>(made)); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream) {
  if (!of_current_device(stream)) return cudaErrorInvalidResourceHandle;
  for (const auto& [kind, work] : reinterpret_cast<Graph*>(made)->nodes) {
    const StreamWork begun(stream);
    if (const int result = work(); result != cudaSuccess) return static_cast<cudaError_t>(result);
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Machine::get().order().host_waits_for_all();
  return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Machine::get().order().wait(stream_number(stream), reinterpret_cast<Event*>(event)->seen);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event{});
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (reinterpret_cast<Event*>(event)->device != (stream ? of(stream)->device : current_device))
    return cudaErrorInvalidResourceHandle;
  reinterpret_cast<Event*>(event)->time = std::chrono::steady_clock::now();
  reinterpret_cast<Event*>(event)->seen = Machine::get().order().record(stream_number(stream));
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Machine::get().order().host_waits(reinterpret_cast<Event*>(event)->seen);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
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
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    default:
      return "another cudaError_t";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
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
