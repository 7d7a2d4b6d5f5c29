// cuda/graph.cuda.cuh: work that is recorded and launched as one CUDA graph, and the memory that such work needs.
#pragma once
#include <ftlib/cuda/block_cache.cuda.cuh>  // BlockCache
#include <ftlib/cuda/launch.cuda.cuh>       // check_cuda

#include <algorithm>  // std::find_if
#include <cstring>    // std::memcpy
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI::detail {

/// A stretch of a stream's work as one CUDA graph: recorded anew each time, which costs no kernel its launch, and put
/// into the executable graph of the time before, as long as it has the same nodes in the same order.
///
/// What is recorded runs later, and where it was recorded it must find its memory: memory comes from blocks that the
/// graph keeps, and host memory that it copies from is copied first.
class CudaGraph {
 public:
  explicit CudaGraph(DeviceStream stream) : stream_(stream) {
    const DeviceGuard guard(stream_.device);
    check_cuda(cudaStreamCreateWithFlags(&aside_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  /// Waits for the device.
  ~CudaGraph() {
    const DeviceGuard guard(stream_.device);
    cudaDeviceSynchronize();
    if (graph_) cudaGraphExecDestroy(graph_);
    blocks_.clear([](void* block) { cudaFree(block); });
    for (const HostBlock& block : host_) cudaFreeHost(block.data);
    cudaStreamDestroy(aside_);
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  /// What the stream is asked for from here on is recorded. Waits for the launch before, which may still read what it
  /// copies from the host; whoever has read a value since does not wait.
  void begin() {
    const DeviceGuard guard(stream_.device);
    check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    for (HostBlock& block : host_) block.used = 0;
    // relaxed: for allocate() and keep(), which ask CUDA for memory in between
    check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  }
  /// Ends the recording, and launches it.
  void launch() {
    const DeviceGuard guard(stream_.device);
    const Recorded recorded(stream_);
    cudaGraphExecUpdateResultInfo info;
    if (graph_ && cudaGraphExecUpdate(graph_, recorded.graph, &info) != cudaSuccess) {
      (void)cudaGetLastError();  // other nodes than before: a graph of its own
      check_cuda(cudaGraphExecDestroy(graph_), "cudaGraphExecDestroy");
      graph_ = nullptr;
    }
    if (!graph_) check_cuda(cudaGraphInstantiate(&graph_, recorded.graph, 0), "cudaGraphInstantiate");
    check_cuda(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch");
  }
  /// Ends the recording, and forgets it.
  void forget() noexcept {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    (void)cudaGetLastError();
  }

  /// `bytes` of device memory for what is recorded; free() takes it with the same `bytes`, and the next may have it:
  /// the order of the stream is that of the graph. Null where the device has no more.
  void* allocate(std::size_t bytes) {
    const std::size_t size = BlockCache::size_of(bytes);
    void* block = blocks_.take(size);
    if (block) return block;
    const DeviceGuard guard(stream_.device);
    const cudaError_t result = cudaMallocAsync(&block, size, aside_);  // its own stream would record it
    if (result == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      return nullptr;
    }
    check_cuda(result, "cudaMallocAsync");
    check_cuda(cudaStreamSynchronize(aside_), "cudaStreamSynchronize");
    return block;
  }
  void free(void* block, std::size_t bytes) { blocks_.put(block, BlockCache::size_of(bytes)); }

  /// A copy of `bytes` of the host's that stays until the next begin(), where the device can read it.
  const void* keep(const void* from, std::size_t bytes) {
    const std::size_t size = (bytes + 15) / 16 * 16;
    auto block = std::find_if(host_.begin(), host_.end(), [&](const HostBlock& b) { return b.size - b.used >= size; });
    if (block == host_.end()) {
      const DeviceGuard guard(stream_.device);
      HostBlock made{nullptr, std::max(size, std::size_t{1} << 20), 0};
      check_cuda(cudaMallocHost(&made.data, made.size), "cudaMallocHost");
      block = host_.insert(host_.end(), made);
    }
    void* const to = static_cast<std::byte*>(block->data) + block->used;
    block->used += size;
    return std::memcpy(to, from, bytes);
  }

 private:
  struct HostBlock {
    void* data;
    std::size_t size, used;
  };
  struct Recorded {
    cudaGraph_t graph = nullptr;
    explicit Recorded(cudaStream_t stream) { check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture"); }
    ~Recorded() { cudaGraphDestroy(graph); }
    Recorded(const Recorded&) = delete;
    Recorded& operator=(const Recorded&) = delete;
  };

  DeviceStream stream_;
  cudaStream_t aside_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
  BlockCache blocks_;
  std::vector<HostBlock> host_;
};

}  // namespace ft::inline FTLIB_ABI::detail
