// tests/cuda_emulation/emulation.hpp: what a test says to the emulation, and what the stand-in for cuda_runtime.h
// calls. docs/cuda.md tells how it works.
#pragma once
#include <vector_types.h>  // uint3, dim3

#include <cstddef>     // std::size_t
#include <cstdint>     // std::int64_t
#include <functional>  // std::function
#include <stdexcept>   // std::runtime_error
#include <string>      // std::string
#include <vector>      // std::vector

struct CUstream_st;

namespace cuda_emulation {

/// Whether what follows is there to ask: tests/gpu/emulation.hpp says no.
inline constexpr bool here = true;

/// What a launch throws where a kernel does what a GPU forbids or leaves undefined. The message names the kernel, the
/// threads, the address and the source line.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The order in which blocks, and threads between barriers, take turns in the launches that follow.
void set_seed(std::uint64_t seed);

/// Launches since the program started.
std::int64_t launches();

/// GPUs that this one computer has. Work of one in memory of the other is a Fault.
inline constexpr int devices = 2;

/// Bytes allocated and not freed.
std::int64_t allocated_bytes();

/// Graphs instantiated, and updated in place of that, since the program started.
struct GraphCounts {
  std::int64_t instantiated = 0, updated = 0;
};
GraphCounts graphs();

/// One launch, or one product of cuBLASLt's, whose kernels are its own.
struct Listed {
  std::string kernel;  // mangled; "cublasLtMatmul"
  dim3 grid, block;
  std::size_t shared_bytes;  // dynamic
};
/// From here on launches are written down and not run, nothing is copied, and memory is not there to be touched: a call
/// of any size takes no time. Null: all is as before. What was allocated before must not be used meanwhile.
void list_launches(std::vector<Listed>* launches);

// From here on: for cuda_runtime.h alone.

inline constexpr int warp_size = 32;

/// Where in the kernel's source a barrier or a warp's operation stands.
struct Where {
  const char* file;
  unsigned line;
  friend bool operator==(const Where&, const Where&) = default;
};

enum class WarpOp { sync, shuffle, ballot, any, all, add, min, max, bit_and, bit_or, bit_xor, joint };
enum class BlockOp { sync, count, all, any };

/// The threads of the warp that `mask` names meet; returns this thread's result.
std::int64_t meet_warp(WarpOp op, unsigned mask, std::int64_t value, int source_lane, Where where);
/// All threads of the block meet.
int meet_block(BlockOp op, int predicate, Where where);
int lane();

/// An atomic access of `bytes` bytes at p by the running thread: checked, not carried out.
void check_atomic(const void* p, std::size_t bytes);

/// The instructions of cuda/mma.cuda.cuh. By all lanes of a warp.
void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, bool bf16, Where where);
void ldmatrix(std::uint32_t (&m)[4], const void* row, bool transposed, Where where);

/// Copies to shared memory that are made no earlier than they are waited for.
void copy_later(void* to, const void* from, std::size_t bytes, std::size_t zeros);
void commit_copies();
void wait_for_copies(std::size_t groups_left);

struct Launch {
  CUstream_st* stream;
  dim3 grid, block;
  std::size_t shared_bytes;
  const void* kernel;
  void (*call)(const void* kernel, void* parameters);  // by one thread
  void* parameters;
  std::size_t parameter_bytes;
};
/// What a node of a graph is; a graph is updated to another one of the same kinds in the same order.
enum class NodeKind { kernel, copy, set, product };
/// True where the stream's work is recorded for a graph.
bool recording(CUstream_st* stream);
void record(CUstream_st* stream, NodeKind kind, std::function<int()> work);

/// Whether the stream is of the calling thread's device, as a launch must have it; the default stream always is.
bool of_current_device(CUstream_st* stream);

/// Runs all blocks on the calling thread's device. Throws Fault; returns a cudaError_t for a configuration that no GPU
/// takes.
int run(const Launch& launch);

}  // namespace cuda_emulation
